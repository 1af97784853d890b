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

/// No command of a test may take longer.
const DEADLINE: Duration = Duration::from_secs(90);

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
    go: PathBuf,
}

impl Paused {
    /// `go` is the file it waits for.
    pub fn new(child: Child, go: PathBuf) -> Self {
        Self { child: Some(child), go }
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// Lets it go on and waits for its end.
    #[track_caller]
    pub fn go_on(mut self) -> Out {
        fs::write(&self.go, "").unwrap();
        finish(self.child.take().unwrap())
    }

    /// Waits for its end, which somebody else brings about.
    #[track_caller]
    pub fn wait(mut self) -> Out {
        finish(self.child.take().unwrap())
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

/// Waits for a child whose standard output and error are pipes.
#[track_caller]
pub fn finish(mut child: Child) -> Out {
    fn read(mut pipe: Option<impl Read + Send + 'static>) -> (Arc<Mutex<Vec<u8>>>, thread::JoinHandle<()>) {
        let text = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&text);
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Some(got) = pipe.as_mut().and_then(|p| p.read(&mut buffer).ok()).filter(|got| *got > 0)
            {
                into.lock().unwrap().extend_from_slice(&buffer[..got]);
            }
        });
        (text, reader)
    }
    let text = |text: &Mutex<Vec<u8>>| String::from_utf8_lossy(&text.lock().unwrap()).into_owned();
    let (stdout, stderr) = (read(child.stdout.take()), read(child.stderr.take()));
    let begun = Instant::now();
    let mut status = None;
    while status.is_none() || !stdout.1.is_finished() || !stderr.1.is_finished() {
        status = child.try_wait().unwrap();
        if begun.elapsed() > DEADLINE {
            let _ = child.kill();
            panic!("a command did not end: {}", text(&stderr.0));
        }
        thread::sleep(Duration::from_millis(3));
    }
    let status = status.unwrap();
    let code = status.code().unwrap_or_else(|| -status.signal().unwrap_or(0));
    Out { code, stdout: text(&stdout.0), stderr: text(&stderr.0) }
}

/// Waits until something is true.
#[track_caller]
pub fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !ready() {
        assert!(begun.elapsed() < Duration::from_secs(30), "{what} did not come");
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
