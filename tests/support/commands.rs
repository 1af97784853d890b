//! Commands of tests: run to their end, stopped at a failpoint, waited for.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// No command of a test may take longer; a machine with other work may stand still for a while.
const DEADLINE: Duration = Duration::from_secs(180);

/// Whatever is waited for comes much sooner.
const PATIENCE: Duration = Duration::from_secs(120);

/// How a command ended.
#[derive(Debug, Clone)]
pub struct Out {
    /// The exit code; a signal's number, negative.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Out {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("no JSON ({e}): {self:?}"))
    }

    /// The run's id, where the command was a backup that began.
    pub fn run_id(&self) -> Option<String> {
        let answer: Value = serde_json::from_str(&self.stdout).ok()?;
        answer["run_id"].as_str().map(str::to_owned)
    }

    #[track_caller]
    pub fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code\n{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Everything it said.
    pub fn all(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

/// A command that waits at a failpoint.
pub struct Paused {
    child: Option<Child>,
    said: Option<Said>,
    go: PathBuf,
}

impl Paused {
    /// `go` is the file it waits for.
    pub fn new(mut child: Child, go: PathBuf) -> Self {
        let said = Said::by(&mut child);
        Self { child: Some(child), said: Some(said), go }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Lets it go on and waits for its end.
    #[track_caller]
    pub fn go_on(mut self) -> Out {
        fs::write(&self.go, "").unwrap();
        self.ended()
    }

    /// Waits for its end, which somebody else brings about.
    #[track_caller]
    pub fn wait(mut self) -> Out {
        self.ended()
    }

    #[track_caller]
    fn ended(&mut self) -> Out {
        end(self.child.take().unwrap(), self.said.take().unwrap())
    }

    /// Sends a run a signal that asks it to stop, and waits until it has heard of it.
    #[track_caller]
    pub fn ask_to_stop(&self, signal: &str) {
        self.signal(signal);
        let said = self.said.as_ref().unwrap();
        wait_for("the answer to a signal", || said.stderr.text().contains("stopping; leftovers are removed"));
        // It says so just before it does so.
        thread::sleep(Duration::from_millis(200));
    }

    /// Sends it a signal: `KILL`, `TERM`.
    #[track_caller]
    pub fn signal(&self, signal: &str) {
        system("kill", &[&format!("-{signal}"), &self.pid().to_string()]);
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        // Only after a failed assertion: nothing may be left running.
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs a command to its end, which must come in time.
#[track_caller]
pub fn output(mut command: Command) -> Out {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|e| panic!("{:?}: {e}", command.get_program()));
    finish(child)
}

/// What came out of one pipe so far, read by a thread.
struct Pipe {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: thread::JoinHandle<()>,
}

impl Pipe {
    fn read(mut pipe: Option<impl Read + Send + 'static>) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Some(got) = pipe.as_mut().and_then(|p| p.read(&mut buffer).ok()).filter(|got| *got > 0)
            {
                into.lock().unwrap().extend_from_slice(&buffer[..got]);
            }
        });
        Self { bytes, reader }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }
}

/// What a child says.
struct Said {
    stdout: Pipe,
    stderr: Pipe,
}

impl Said {
    fn by(child: &mut Child) -> Self {
        Self { stdout: Pipe::read(child.stdout.take()), stderr: Pipe::read(child.stderr.take()) }
    }

    fn is_over(&self) -> bool {
        self.stdout.reader.is_finished() && self.stderr.reader.is_finished()
    }
}

/// Waits for a child whose standard output and error are pipes.
#[track_caller]
pub fn finish(mut child: Child) -> Out {
    let said = Said::by(&mut child);
    end(child, said)
}

#[track_caller]
fn end(mut child: Child, said: Said) -> Out {
    let begun = Instant::now();
    let mut status = None;
    while status.is_none() || !said.is_over() {
        status = child.try_wait().unwrap();
        if begun.elapsed() > DEADLINE {
            let _ = child.kill();
            panic!("a command did not end: {}", said.stderr.text());
        }
        thread::sleep(Duration::from_millis(3));
    }
    let status = status.unwrap();
    let code = status.code().unwrap_or_else(|| -status.signal().unwrap_or(0));
    Out { code, stdout: said.stdout.text(), stderr: said.stderr.text() }
}

/// Waits until something is true.
#[track_caller]
pub fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < PATIENCE, "{what} did not come");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs a program of the system that must succeed.
#[track_caller]
pub fn system(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null());
    let out = output(command);
    assert_eq!(out.code, 0, "{program} {args:?}: {}", out.all());
    out.stdout
}
