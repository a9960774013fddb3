//! The uplink while control runs: its interface may go and come back, and its MTU may change.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering::Relaxed};

use podplane_hostnet::events::Event;
use podplane_hostnet::takeover::{self, DATAPLANE_PORT, HOST_PORT};
use podplane_hostnet::{LinkChange, Netlink};
use podplane_packet::id::PortId;

use crate::ports::{OpenedPort, PortOpener, Role};
use crate::uplink::{UplinkError, usable_mtu};

/// What control does about the uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Its interface is there again, as it seems.
    Back,
    /// It has another MTU, in bytes.
    Mtu(u16),
}

/// The uplink as control watches it.
#[derive(Debug)]
pub struct UplinkWatch {
    /// The kernel interface that our own driver works on: it can be opened again.
    name: Option<String>,
    /// Its index, or that of the interface below a DPDK device.
    index: Option<u32>,
    state_dir: PathBuf,
    /// `--mtu`.
    wanted: Option<u16>,
    /// The MTU in force in bytes. Written by control alone; read for every agent that connects.
    mtu: Arc<AtomicU16>,
    /// The interface was removed and is not open again.
    lost: bool,
    news: Option<News>,
}

impl UplinkWatch {
    /// An uplink that is there.
    pub fn new(
        name: Option<String>,
        index: Option<u32>,
        state_dir: PathBuf,
        wanted: Option<u16>,
        mtu: &Arc<AtomicU16>,
    ) -> UplinkWatch {
        UplinkWatch { name, index, state_dir, wanted, mtu: Arc::clone(mtu), lost: false, news: None }
    }

    /// Takes notice of what the kernel says.
    pub fn heard(&mut self, event: &Event) {
        match event {
            Event::Link(link) if self.lost && self.name.as_ref() == Some(&link.name) => self.news = Some(News::Back),
            Event::Link(link) if self.index == Some(link.index) && !self.lost => {
                let mtu = usable_mtu(link.mtu, self.wanted);
                if mtu != self.mtu.load(Relaxed) {
                    self.news = Some(News::Mtu(mtu));
                } else if matches!(self.news, Some(News::Mtu(_))) {
                    self.news = None;
                }
            }
            Event::LinkGone(link) if self.index == Some(link.index) => {
                self.lost = true;
                match &self.name {
                    Some(name) => tracing::error!(name, "the uplink was removed; waiting for it to come back"),
                    None => {
                        tracing::error!(name = %link.name, "the interface below the uplink was removed: restart the dataplane once it is back")
                    }
                }
            }
            // The one event may have been lost that says that it is there.
            Event::Overrun => self.look_again(),
            _ => {}
        }
    }

    /// Tries again what did not work: a new interface may not be ready when it is first heard of.
    pub fn look_again(&mut self) {
        if let Some(name) = self.name.as_deref().filter(|_| self.lost)
            && nix::net::if_::if_nametoindex(name).is_ok()
        {
            self.news = Some(News::Back);
        }
    }

    /// What is to be done, once.
    pub fn take_news(&mut self) -> Option<News> {
        self.news.take()
    }

    /// Takes the interface over again and opens it; the record of what was there at the first time stays in force.
    ///
    /// # Errors
    /// It is not there (yet), or not usable.
    pub fn reopen(&mut self, opener: &PortOpener) -> Result<Option<OpenedPort>, UplinkError> {
        let Some(name) = self.name.clone() else { return Ok(None) };
        takeover::take_over(&name, &self.state_dir)?;
        let opened = opener.open_interface(PortId::UPLINK, &name, Role::Uplink)?;
        self.index = opened.facts.ifindex;
        self.lost = false;
        let mtu = usable_mtu(opened.facts.mtu.into(), self.wanted);
        if mtu != self.mtu.load(Relaxed) {
            self.news = Some(News::Mtu(mtu));
        }
        Ok(Some(opened))
    }

    /// Puts an MTU in force for the host port and for agents to come.
    pub fn set_mtu(&self, mtu: u16) {
        self.mtu.store(mtu, Relaxed);
        for port in [HOST_PORT, DATAPLANE_PORT] {
            if let Err(error) = set_link_mtu(port, mtu) {
                tracing::error!(port, mtu, %error, "the host port's MTU cannot follow the uplink's");
            }
        }
    }
}

fn set_link_mtu(name: &str, mtu: u16) -> podplane_hostnet::Result<()> {
    let mut netlink = Netlink::open()?;
    let link = netlink.need_link(name)?;
    netlink.change_link(link.index, &LinkChange { mtu: Some(mtu.into()), ..LinkChange::default() })
}
