//! The system calls that no safe crate offers. The only module in which unsafe code may stand.
//!
//! Each function here is one call with plain numbers as arguments, so that what makes it sound can be said
//! in one sentence beside it.

#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Puts the calling thread into the idle I/O class: it gets the disk only when nobody else wants it.
/// Schedulers without classes (`none`, `mq-deadline` on older kernels) ignore it.
pub fn set_idle_io_priority() -> io::Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_CLASS_IDLE: libc::c_int = 3;
    const IOPRIO_CLASS_SHIFT: libc::c_int = 13;
    // SAFETY: ioprio_set(2) takes three integers and touches no memory of ours; 0 means this thread.
    let result = unsafe {
        libc::syscall(
            libc::SYS_ioprio_set,
            IOPRIO_WHO_PROCESS,
            0 as libc::c_int,
            IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the kernel kill the child of `command` (SIGKILL) when the **thread** that spawns it ends, and so
/// when this process dies, however it dies. Spawn from a thread that lives as long as the child.
///
/// The children of the child are not covered.
pub fn die_with_parent(command: &mut Command) {
    let parent = std::process::id() as libc::pid_t;
    // SAFETY: between fork and exec only async-signal-safe calls are made: prctl and getppid, and errors
    // made from plain numbers, without allocation.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong) == -1 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have died before the request was made: then nothing would ever end this child.
            if libc::getppid() != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
            Ok(())
        });
    }
}

/// Ignores SIGXFSZ, so that a write beyond the file size limit fails with an error instead of killing the
/// process. Children inherit it, as they do SIGPIPE's treatment by the standard library.
pub fn ignore_file_size_signal() {
    // SAFETY: setting a signal to be ignored runs no code of ours in a handler and touches no memory.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// Asks the kernel to begin writing a range of a file to the disk, and does not wait for it. Unlike fsync it
/// promises nothing; it only keeps the fsync that follows from finding all the work still to be done.
pub fn begin_writeback(file: &std::fs::File, offset: u64, length: u64) {
    use std::os::fd::AsRawFd;
    const SYNC_FILE_RANGE_WRITE: libc::c_uint = 2;
    let (Ok(offset), Ok(length)) = (libc::off64_t::try_from(offset), libc::off64_t::try_from(length)) else {
        return;
    };
    // SAFETY: sync_file_range(2) takes an open descriptor, which `file` lends, and three integers. File
    // systems that do not know it answer with an error, which changes nothing.
    unsafe {
        libc::sync_file_range(file.as_raw_fd(), offset, length, SYNC_FILE_RANGE_WRITE);
    }
}

/// Asks for room for so many bytes in a pipe. More than the system allows is refused, which changes nothing.
pub fn widen_pipe(pipe: &impl std::os::fd::AsFd, bytes: libc::c_int) {
    use std::os::fd::AsRawFd;
    // SAFETY: fcntl(2) with F_SETPIPE_SZ takes an open descriptor, which `pipe` lends, and an integer.
    unsafe {
        libc::fcntl(pipe.as_fd().as_raw_fd(), libc::F_SETPIPE_SZ, bytes);
    }
}

/// Whether the kernel's clock is kept in step with others, as far as the kernel was told.
pub fn is_clock_synchronised() -> io::Result<bool> {
    // SAFETY: all bits zero are a valid `timex`: it has numbers only. With `modes` zero, adjtimex(2) changes
    // nothing and fills it in.
    let state = unsafe {
        let mut answer: libc::timex = std::mem::zeroed();
        libc::adjtimex(&mut answer)
    };
    const TIME_ERROR: libc::c_int = 5;
    match state {
        -1 => Err(io::Error::last_os_error()),
        TIME_ERROR => Ok(false),
        _ => Ok(true),
    }
}
