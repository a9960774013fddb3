//! Files that DPDK leaves open.

use std::io;

/// Has every open file of this process but standard input, output and error closed when it becomes another program.
/// EAL keeps files open after a start that failed, and hugepages with them.
///
/// # Errors
/// The kernel is older than 5.11.
pub fn close_on_exec() -> io::Result<()> {
    const FIRST: libc::c_uint = 3;
    // SAFETY: only marks descriptors; none is closed before exec, so all that own one go on owning it.
    let done = unsafe { libc::syscall(libc::SYS_close_range, FIRST, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    #[test]
    fn what_is_open_is_marked() {
        let file = std::fs::File::open("/dev/null").unwrap();
        // SAFETY: the descriptor is ours; only its flags are changed and read.
        let flags = |set: Option<i32>| unsafe {
            set.map(|flags| libc::fcntl(file.as_raw_fd(), libc::F_SETFD, flags));
            libc::fcntl(file.as_raw_fd(), libc::F_GETFD)
        };
        assert_eq!(flags(Some(0)), 0);
        super::close_on_exec().unwrap();
        assert_eq!(flags(None), libc::FD_CLOEXEC);
    }
}
