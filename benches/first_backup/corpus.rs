//! Trees to back up: made once, the same on each machine, kept for the next time.

use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// What a tree holds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shape {
    /// Files of source code, 6 KiB in the mean.
    pub small_files: u64,
    /// Bytes that do not compress, in files of 60 kB to 8 MB.
    pub media: u64,
    /// Bytes of log lines, in files of 15 MB.
    pub logs: u64,
    /// Files without content.
    pub empty_files: u64,
}

/// Shaped like a web application: 40,000 small files, 500 MB of media, 150 MB of logs.
pub const WEB_APPLICATION: Shape =
    Shape { small_files: 40_000, media: 500_000_000, logs: 150_000_000, empty_files: 0 };

impl Shape {
    /// Bytes of content, about.
    pub fn bytes(self) -> u64 {
        self.small_files * (6 << 10) + self.media + self.logs
    }

    /// The same, so many times as large.
    pub fn times(self, n: u64) -> Self {
        Self {
            small_files: self.small_files * n,
            media: self.media * n,
            logs: self.logs * n,
            empty_files: self.empty_files * n,
        }
    }
}

/// Whether the tree `name` is there already.
pub fn is_made(folder: &Path, name: &str, shape: Shape) -> bool {
    let mark = folder.join(format!("{name}.made"));
    fs::read_to_string(mark).is_ok_and(|found| found == described(shape))
}

fn described(shape: Shape) -> String {
    format!("{shape:?} 1\n")
}

/// Makes the tree `name` below `folder`, unless it is there.
pub fn make(folder: &Path, name: &str, shape: Shape) -> io::Result<PathBuf> {
    let root = folder.join(name);
    let mark = folder.join(format!("{name}.made"));
    if is_made(folder, name, shape) {
        return Ok(root);
    }
    eprintln!("making {} …", root.display());
    match fs::remove_dir_all(&root) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let mut random = Random(0x5EED);
    small_files(&root, shape.small_files, &mut random)?;
    media(&root.join("storage/app/public"), shape.media, &mut random)?;
    logs(&root.join("storage/logs"), shape.logs, &mut random)?;
    empty_files(&root.join("empty"), shape.empty_files)?;
    fs::write(mark, described(shape))?;
    Ok(root)
}

/// Some file below `root` of about this size, in the middle of the tree.
pub fn file_of_about(root: &Path, size: u64) -> io::Result<Option<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let about = entry.metadata()?;
            if about.is_dir() {
                folders.push(entry.path());
            } else if about.len().abs_diff(size) < size / 10 {
                found.push(entry.path());
            }
        }
    }
    found.sort();
    Ok(found.get(found.len() / 2).cloned())
}

/// Reads every file once, so that it stands in the page cache; gives the bytes.
pub fn warm(root: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    let mut buffer = vec![0; 1 << 20];
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            bytes += warm(&entry.path())?;
            continue;
        }
        let mut file = File::open(entry.path())?;
        loop {
            match file.read(&mut buffer)? {
                0 => break,
                n => bytes += n as u64,
            }
        }
    }
    Ok(bytes)
}

/// SplitMix64: small, fast, and good enough for sizes and noise.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    /// From 0 to 1.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// One of `items`, the first ones much more often, as words in a text are.
    fn common<'a>(&mut self, items: &[&'a str]) -> &'a str {
        let skewed = self.fraction().powi(2) * items.len() as f64;
        items[(skewed as usize).min(items.len() - 1)]
    }

    /// Log-normal, by the sum of twelve uniform values: many small, few large.
    fn size(&mut self, median: f64, spread: f64) -> usize {
        let normal: f64 = (0..12).map(|_| self.fraction()).sum::<f64>() - 6.0;
        (median * (normal * spread).exp()) as usize
    }

    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            let bytes = self.next().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}

const WORDS: &[&str] = &[
    "this",
    "return",
    "function",
    "public",
    "user",
    "request",
    "string",
    "array",
    "value",
    "key",
    "name",
    "model",
    "query",
    "where",
    "first",
    "id",
    "data",
    "config",
    "route",
    "response",
    "order",
    "item",
    "customer",
    "payment",
    "invoice",
    "session",
    "cache",
    "event",
    "listener",
    "service",
    "provider",
    "controller",
    "validate",
    "required",
    "nullable",
    "created",
    "updated",
    "deleted",
    "token",
    "expires",
    "callback",
    "promise",
    "await",
    "async",
    "const",
    "render",
    "component",
    "props",
    "state",
    "effect",
    "index",
    "length",
    "filter",
    "reduce",
    "merge",
    "collect",
    "queue",
    "dispatch",
    "handle",
    "throw",
    "exception",
    "message",
    "translate",
    "locale",
    "currency",
    "amount",
    "quantity",
    "discount",
    "address",
    "country",
    "region",
    "postcode",
    "telephone",
    "availability",
    "calendar",
    "appointment",
    "duration",
    "interval",
    "timezone",
    "schedule",
    "webhook",
    "signature",
    "payload",
    "header",
    "encode",
    "decode",
];

const LINES: &[&str] = &[
    "        $this->A = $B->C('A', $D);\n",
    "        if ($A === null || !$B->C()) {\n            return $this->D('B');\n        }\n",
    "    public function A(B $C, ?string $D = null): array\n    {\n",
    "        return array_merge($A, ['B' => $C, 'D' => $this->A()]);\n    }\n\n",
    "    /**\n     * A the B of the C.\n     *\n     * @param  \\App\\Models\\B  $D\n     * @return void\n     */\n",
    "        foreach ($A as $B => $C) {\n            $D[$B] = $C->A;\n        }\n\n",
    "        'A' => ['required', 'string', 'max:255'],\n        'B' => env('C', 'D'),\n",
    "use App\\Services\\A\\B;\nuse Illuminate\\Support\\C;\n",
    "    const A = await B.C({ D: A.B, C });\n    if (!A) throw new Error(`D ${B}`);\n",
    "export function A(B, C) {\n  return B.filter((D) => D.A !== C).map((D) => D.B);\n}\n\n",
];

const FOLDERS: &[&str] = &[
    "app/Http/Controllers",
    "app/Models",
    "app/Services",
    "resources/views",
    "resources/js/components",
    "config",
    "database/migrations",
    "tests/Feature",
];

/// Text that compresses about as source code does: lines of a kind, names that return, and some that do not.
fn source_code(size: usize, random: &mut Random) -> Vec<u8> {
    let mut text = String::with_capacity(size + 256);
    text.push_str("<?php\n\nnamespace App\\");
    text.push_str(random.common(WORDS));
    text.push_str(";\n\n");
    while text.len() < size {
        for c in random.common(LINES).chars() {
            match c {
                'A'..='D' => {
                    text.push_str(random.common(WORDS));
                    if random.below(4) == 0 {
                        let own = random.next();
                        text.push_str(&format!("{own:x}")[..3]);
                    }
                }
                c => text.push(c),
            }
        }
    }
    text.truncate(size);
    text.into_bytes()
}

fn small_files(root: &Path, count: u64, random: &mut Random) -> io::Result<()> {
    let mut folder = PathBuf::new();
    for n in 0..count {
        // A folder holds a dozen files, as in `vendor` and `node_modules`, where most of them are.
        if n % 12 == 0 {
            folder = match random.below(10) {
                0 => root.join(FOLDERS[(n / 12) as usize % FOLDERS.len()]).join(format!("module{n}")),
                1..=6 => root.join(format!("vendor/{}/package{n}/src", random.common(WORDS))),
                _ => root.join(format!("node_modules/{}-{n}/dist", random.common(WORDS))),
            };
            fs::create_dir_all(&folder)?;
        }
        let size = random.size(2500.0, 1.3).clamp(40, 400_000);
        let name = format!("{}{n}.php", random.common(WORDS));
        fs::write(folder.join(name), source_code(size, random))?;
    }
    Ok(())
}

fn media(root: &Path, mut left: u64, random: &mut Random) -> io::Result<()> {
    let mut n = 0;
    while left > 0 {
        let folder = root.join(format!("{:02x}", n % 256));
        fs::create_dir_all(&folder)?;
        let size = (random.size(500_000.0, 1.0).clamp(60_000, 8_000_000) as u64).min(left);
        let mut bytes = vec![0; size as usize];
        random.fill(&mut bytes);
        fs::write(folder.join(format!("photo{n}.jpg")), bytes)?;
        left -= size;
        n += 1;
    }
    Ok(())
}

fn logs(root: &Path, mut left: u64, random: &mut Random) -> io::Result<()> {
    const FILE: u64 = 15_000_000;
    fs::create_dir_all(root)?;
    let (mut n, mut second) = (0, 0u64);
    while left > 0 {
        let size = left.min(FILE);
        let mut out = BufWriter::new(File::create(root.join(format!("laravel-{n}.log")))?);
        let mut written = 0;
        while written < size {
            second += random.below(3);
            let line = format!(
                "[2026-11-{:02} {:02}:{:02}:{:02}] production.INFO: {} {} took {} ms {{\"user\":{},\"ip\":\"10.{}.{}.{}\",\"request\":\"{:016x}\"}}\n",
                1 + second / 86400 % 28,
                second / 3600 % 24,
                second / 60 % 60,
                second % 60,
                random.common(WORDS),
                random.common(WORDS),
                random.below(2000),
                random.below(5000),
                random.below(4),
                random.below(256),
                random.below(256),
                random.next(),
            );
            let line = &line.as_bytes()[..line.len().min((size - written) as usize)];
            out.write_all(line)?;
            written += line.len() as u64;
        }
        out.flush()?;
        left -= size;
        n += 1;
    }
    Ok(())
}

fn empty_files(root: &Path, count: u64) -> io::Result<()> {
    for n in 0..count {
        let folder = root.join(format!("{:04}", n / 1000));
        if n % 1000 == 0 {
            fs::create_dir_all(&folder)?;
        }
        File::create(folder.join(format!("file{n}")))?;
    }
    Ok(())
}
