//! The system calls of a packet socket, one thin safe function each: opening, options, fanout, statistics, and the
//! facts of an interface. See packet(7).
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::io;
use std::mem;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use podplane_packet::id::Mac;

use crate::ports::OpenError;

const PACKET_STATISTICS: c_int = 6;
const PACKET_AUXDATA: c_int = 8;
const PACKET_VNET_HDR: c_int = 15;
const PACKET_FANOUT: c_int = 18;
const PACKET_QDISC_BYPASS: c_int = 20;
const PACKET_IGNORE_OUTGOING: c_int = 23;
const FANOUT_HASH: u16 = 0;
const FANOUT_FLAG_UNIQUEID: u16 = 0x2000;
/// A fanout group has a hook of its own, which sees outgoing frames whatever its sockets' option says.
const FANOUT_FLAG_IGNORE_OUTGOING: u16 = 0x4000;
const ARPHRD_ETHER: u16 = 1;

/// What the kernel says of an interface.
#[derive(Clone, Debug)]
pub(crate) struct InterfaceFacts {
    pub(crate) name: String,
    pub(crate) index: c_int,
    pub(crate) mac: Mac,
    pub(crate) mtu: u32,
    pub(crate) up: bool,
}

/// A nonblocking packet socket, configured, but bound only by [`PacketSocket::bind`]: a socket of protocol 0 receives
/// nothing, so no frame arrives before every option holds.
#[derive(Debug)]
pub(crate) struct PacketSocket {
    fd: OwnedFd,
    name: String,
}

/// Turns the result of a system call into one of `io`.
pub(crate) fn checked(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

impl PacketSocket {
    /// Opens a socket for the interface called `name`, with buffers of `receive` and `send` bytes.
    pub(crate) fn open(name: &str, receive: usize, send: usize) -> Result<PacketSocket, OpenError> {
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: socket() takes no pointers.
        let raw = unsafe { libc::socket(libc::AF_PACKET, kind, 0) };
        if raw < 0 {
            let cause = io::Error::last_os_error();
            return Err(match cause.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => OpenError::NotPermitted { name: name.to_owned() },
                _ => OpenError::Io { name: name.to_owned(), action: "opening a packet socket", cause },
            });
        }
        // SAFETY: the descriptor was just made and belongs to nobody else.
        let socket = PacketSocket { fd: unsafe { OwnedFd::from_raw_fd(raw) }, name: name.to_owned() };
        for (value, option) in [
            (PACKET_VNET_HDR, "PACKET_VNET_HDR"),
            (PACKET_IGNORE_OUTGOING, "PACKET_IGNORE_OUTGOING"),
            (PACKET_QDISC_BYPASS, "PACKET_QDISC_BYPASS"),
            (PACKET_AUXDATA, "PACKET_AUXDATA"),
        ] {
            socket.set(libc::SOL_PACKET, value, &(1 as c_int)).map_err(|e| socket.option_error(option, e))?;
        }
        // The kernel doubles what it is told, for its own bookkeeping; the caller counts what is really held.
        socket.set_buffer(libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, receive / 2);
        socket.set_buffer(libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, send / 2);
        Ok(socket)
    }

    fn option_error(&self, option: &'static str, cause: io::Error) -> OpenError {
        match cause.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => OpenError::NotPermitted { name: self.name.clone() },
            _ => OpenError::Option { name: self.name.clone(), option, cause },
        }
    }

    /// Sets a buffer's size; without CAP_NET_ADMIN up to the system's limit, which is smaller but works.
    fn set_buffer(&self, force: c_int, plain: c_int, bytes: usize) {
        let bytes = c_int::try_from(bytes).unwrap_or(c_int::MAX);
        if self.set(libc::SOL_SOCKET, force, &bytes).is_err() {
            let _ = self.set(libc::SOL_SOCKET, plain, &bytes);
        }
    }

    fn set<T: Copy>(&self, level: c_int, option: c_int, value: &T) -> io::Result<()> {
        // SAFETY: pointer and length describe `value`, which lives through the call; the kernel only reads it.
        let r = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                std::ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        checked(r as isize).map(drop)
    }

    /// Reads an option into `value`, an integer or an array of integers.
    fn get<T: Copy>(&self, level: c_int, option: c_int, mut value: T) -> io::Result<T> {
        let mut len = size_of::<T>() as libc::socklen_t;
        // SAFETY: pointer and length describe `value`, which any bytes are valid for (integers at both call sites).
        let r = unsafe {
            libc::getsockopt(self.fd.as_raw_fd(), level, option, std::ptr::from_mut(&mut value).cast(), &mut len)
        };
        checked(r as isize).map(|_| value)
    }

    /// Binds to the interface with this index: frames of all protocols begin to arrive. A down interface is no error.
    pub(crate) fn bind(&self, ifindex: c_int) -> Result<(), OpenError> {
        // SAFETY: sockaddr_ll is plain integers, for which zeroes are valid.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        address.sll_ifindex = ifindex;
        // SAFETY: pointer and length describe `address`, which lives through the call.
        let r = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                std::ptr::from_ref(&address).cast(),
                size_of::<libc::sockaddr_ll>() as libc::socklen_t,
            )
        };
        checked(r as isize).map(drop).map_err(|cause| match cause.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => OpenError::NoInterface { name: self.name.clone() },
            _ => OpenError::Io { name: self.name.clone(), action: "binding a packet socket", cause },
        })
    }

    /// Drops every frame that arrives, until [`PacketSocket::accept_all`].
    pub(crate) fn refuse_all(&self) -> Result<(), OpenError> {
        let mut program = [libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: 0 }]; // BPF_RET | BPF_K, 0 bytes
        let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
        self.set(libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &filter)
            .map_err(|e| self.option_error("SO_ATTACH_FILTER", e))
    }

    /// Ends [`PacketSocket::refuse_all`].
    pub(crate) fn accept_all(&self) -> Result<(), OpenError> {
        self.set(libc::SOL_SOCKET, libc::SO_DETACH_FILTER, &(0 as c_int))
            .map_err(|e| self.option_error("SO_DETACH_FILTER", e))
    }

    /// Joins the fanout group `group`, or makes a new one; returns its number. By hash of the flow, without
    /// reassembly: a fragment must arrive as the fragment it is.
    pub(crate) fn join_fanout(&self, group: Option<u16>) -> Result<u16, OpenError> {
        let mode = FANOUT_HASH | FANOUT_FLAG_IGNORE_OUTGOING;
        let value = match group {
            Some(id) => u32::from(mode) << 16 | u32::from(id),
            None => u32::from(mode | FANOUT_FLAG_UNIQUEID) << 16,
        };
        self.set(libc::SOL_PACKET, PACKET_FANOUT, &value).map_err(|e| self.option_error("PACKET_FANOUT", e))?;
        let answer: u32 =
            self.get(libc::SOL_PACKET, PACKET_FANOUT, 0).map_err(|e| self.option_error("PACKET_FANOUT", e))?;
        Ok(answer as u16)
    }

    /// Frames that found the socket's buffer full since the last call.
    pub(crate) fn take_drops(&self) -> u32 {
        self.get(libc::SOL_PACKET, PACKET_STATISTICS, [0u32; 2]).map_or(0, |[_, drops]| drops)
    }

    /// Whether the interface that the socket was bound to still exists: the kernel sets the index to -1 when not.
    pub(crate) fn is_bound(&self) -> bool {
        // SAFETY: sockaddr_ll is plain integers, for which zeroes are valid.
        let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
        let mut len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
        // SAFETY: pointer and length describe `address`, which lives through the call.
        let r = unsafe { libc::getsockname(self.fd.as_raw_fd(), std::ptr::from_mut(&mut address).cast(), &mut len) };
        r == 0 && address.sll_ifindex > 0
    }
}

impl AsFd for PacketSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Asks the kernel about the interface called `name`, in the calling thread's network namespace.
pub(crate) fn interface_facts(name: &str) -> Result<InterfaceFacts, OpenError> {
    let valid = (1..libc::IFNAMSIZ).contains(&name.len()) && !name.bytes().any(|b| b == b'/' || b <= b' ');
    if !valid {
        return Err(OpenError::BadName { name: name.to_owned() });
    }
    // SAFETY: socket() takes no pointers.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    let io_error = |action| {
        move |cause: io::Error| match cause.raw_os_error() {
            Some(libc::ENODEV) => OpenError::NoInterface { name: name.to_owned() },
            _ => OpenError::Io { name: name.to_owned(), action, cause },
        }
    };
    checked(raw as isize).map_err(io_error("opening a socket"))?;
    // SAFETY: the descriptor was just made and belongs to nobody else.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let ask = |request: libc::Ioctl| -> io::Result<libc::ifreq> {
        // SAFETY: ifreq is integers, arrays and a pointer that these requests do not use; zeroes are valid.
        let mut ifr: libc::ifreq = unsafe { mem::zeroed() };
        for (to, from) in ifr.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as libc::c_char;
        }
        // SAFETY: `ifr` is the structure that these requests read and write, and lives through the call.
        checked(unsafe { libc::ioctl(socket.as_raw_fd(), request, &mut ifr) } as isize).map(|_| ifr)
    };
    let index = ask(libc::SIOCGIFINDEX).map_err(io_error("asking for the index"))?;
    let mtu = ask(libc::SIOCGIFMTU).map_err(io_error("asking for the MTU"))?;
    let flags = ask(libc::SIOCGIFFLAGS).map_err(io_error("asking for the flags"))?;
    let hw = ask(libc::SIOCGIFHWADDR).map_err(io_error("asking for the address"))?;
    // SAFETY: each request filled the member of the union that is read here.
    let (index, mtu, flags, hw) = unsafe {
        (index.ifr_ifru.ifru_ifindex, mtu.ifr_ifru.ifru_mtu, flags.ifr_ifru.ifru_flags, hw.ifr_ifru.ifru_hwaddr)
    };
    if hw.sa_family != ARPHRD_ETHER {
        return Err(OpenError::NotEthernet { name: name.to_owned(), kind: hw.sa_family });
    }
    let mac = Mac(std::array::from_fn(|i| hw.sa_data[i] as u8));
    let mtu = u32::try_from(mtu).unwrap_or(0);
    Ok(InterfaceFacts { name: name.to_owned(), index, mac, mtu, up: c_int::from(flags) & libc::IFF_UP != 0 })
}
