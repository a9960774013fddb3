//! The tables and their transactions.

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use ipnet::IpNet;
use podplane_api::{AttachmentId, MAX_CONTAINER_ID, MAX_IFNAME, PoolUse};
use redb::{
    Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, StorageBackend, TableDefinition, WriteTransaction,
};

use super::range::{Bytes, Room, from_bytes, to_bytes};
use super::{IpamError, Lease, Moment, Reserved, Wish, names};

/// Attachment ("container/ifname") to its lease as JSON.
const ATTACHMENTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("attachments");
/// Address to attachment.
const LEASES: TableDefinition<'_, &Bytes, &str> = TableDefinition::new("leases");
/// Host end to attachment.
const IFNAMES: TableDefinition<'_, &str, &str> = TableDefinition::new("ifnames");
/// Address to the moment when it was given back.
const COOLING: TableDefinition<'_, &Bytes, u64> = TableDefinition::new("cooling");
/// The same, oldest first.
const COOLING_BY_AGE: TableDefinition<'_, (u64, &Bytes), ()> = TableDefinition::new("cooling-by-age");
/// Range to the address that it gave last: the search goes on behind it.
const CURSORS: TableDefinition<'_, &str, &Bytes> = TableDefinition::new("cursors");
/// Facts about the store.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const FORMAT: u64 = 1;

/// The store of leases.
#[derive(Debug)]
pub struct Store {
    db: Database,
    path: String,
    cool_down: u64,
}

/// Within the store every error is the database's; [`Store`] adds the file's name.
enum Failure {
    Database(redb::Error),
    Content(String),
    Ipam(IpamError),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        Failure::Database(error.into())
    }
}

impl Store {
    /// Opens the store at `path`, makes it where there is none. A store that a killed process left is repaired.
    pub fn open(path: &Path, cool_down: Duration) -> Result<Store, IpamError> {
        let name = path.display().to_string();
        let open = || Ok(Database::create(path)?);
        Self::with(open().map_err(|e| error(&name, e))?, name, cool_down)
    }

    /// A store on another backend (in memory, for tests).
    pub fn on(backend: impl StorageBackend, cool_down: Duration) -> Result<Store, IpamError> {
        let name = "memory".to_owned();
        let open = || Ok(Database::builder().create_with_backend(backend)?);
        Self::with(open().map_err(|e| error(&name, e))?, name, cool_down)
    }

    fn with(db: Database, path: String, cool_down: Duration) -> Result<Store, IpamError> {
        let cool_down = u64::try_from(cool_down.as_millis()).unwrap_or(u64::MAX);
        let store = Store { db, path, cool_down };
        store.write(|write| {
            let mut meta = write.open_table(META)?;
            let format = meta.get("format")?.map(|format| format.value());
            match format {
                Some(FORMAT) => {}
                None => drop(meta.insert("format", FORMAT)?),
                Some(other) => {
                    return Err(Failure::Content(format!(
                        "its format is {other}, this version reads {FORMAT}: run the version that wrote it"
                    )));
                }
            }
            // A table must exist before it can be read.
            write.open_table(ATTACHMENTS)?;
            write.open_table(LEASES)?;
            Ok(())
        })?;
        Ok(store)
    }

    /// Gives an attachment its addresses, one of each range; again the same, if it has them already.
    pub fn reserve(&self, wish: &Wish<'_>, now: Moment) -> Result<Reserved, IpamError> {
        let key = key(wish.id)?;
        self.write(|write| {
            let mut attachments = write.open_table(ATTACHMENTS)?;
            let present = attachments.get(key.as_str())?.map(|json| read(json.value())).transpose()?;
            if let Some(lease) = present {
                let (netns, host_ports) = (wish.netns.to_owned(), wish.host_ports.to_vec());
                let lease = Lease { netns, pod: wish.pod.cloned(), host_ports, ..lease };
                attachments.insert(key.as_str(), json(&lease)?.as_slice())?;
                return Ok(Reserved { lease, reused_early: Vec::new() });
            }
            if wish.ranges.is_empty() {
                return Err(Failure::Ipam(IpamError::NoRange));
            }
            let mut pool = Pool::open(write)?;
            pool.forget_cooled(now, self.cool_down)?;
            let (mut addresses, mut reused_early) = (Vec::new(), Vec::new());
            for range in wish.ranges {
                let (address, early) = pool.take(range, &key)?;
                addresses.push(address);
                reused_early.extend(early.then_some(address));
            }
            let lease = Lease {
                id: wish.id.clone(),
                netns: wish.netns.to_owned(),
                pod: wish.pod.cloned(),
                addresses,
                mac: names::mac(wish.id).0,
                host_ifname: name_host_end(write, wish.id, &key)?,
                mtu: wish.mtu,
                host_ports: wish.host_ports.to_vec(),
                ready: false,
            };
            attachments.insert(key.as_str(), json(&lease)?.as_slice())?;
            Ok(Reserved { lease, reused_early })
        })
    }

    /// Notes whether an attachment is connected. One that is not there is no error.
    pub fn set_ready(&self, id: &AttachmentId, ready: bool) -> Result<(), IpamError> {
        let key = key(id)?;
        self.write(|write| {
            let mut attachments = write.open_table(ATTACHMENTS)?;
            let present = attachments.get(key.as_str())?.map(|json| read(json.value())).transpose()?;
            if let Some(lease) = present.filter(|lease| lease.ready != ready) {
                attachments.insert(key.as_str(), json(&Lease { ready, ..lease })?.as_slice())?;
            }
            Ok(())
        })
    }

    /// Takes everything of an attachment back; its addresses begin to cool down. `None`: it had nothing.
    pub fn release(&self, id: &AttachmentId, now: Moment) -> Result<Option<Lease>, IpamError> {
        let key = key(id)?;
        self.write(|write| {
            let mut attachments = write.open_table(ATTACHMENTS)?;
            let present = attachments.remove(key.as_str())?.map(|json| read(json.value())).transpose()?;
            let Some(lease) = present else { return Ok(None) };
            write.open_table(IFNAMES)?.remove(lease.host_ifname.as_str())?;
            let mut pool = Pool::open(write)?;
            for address in &lease.addresses {
                pool.give_back(*address, now)?;
            }
            Ok(Some(lease))
        })
    }

    /// The lease of an attachment.
    pub fn get(&self, id: &AttachmentId) -> Result<Option<Lease>, IpamError> {
        let key = key(id)?;
        self.read(|read_| {
            let attachments = read_.open_table(ATTACHMENTS)?;
            attachments.get(key.as_str())?.map(|json| read(json.value())).transpose()
        })
    }

    /// All leases, sorted by attachment.
    pub fn list(&self) -> Result<Vec<Lease>, IpamError> {
        self.read(|read_| {
            let attachments = read_.open_table(ATTACHMENTS)?;
            attachments.iter()?.map(|entry| read(entry?.1.value())).collect()
        })
    }

    /// How full `ranges` are.
    pub fn usage(&self, ranges: &[IpNet]) -> Result<Vec<PoolUse>, IpamError> {
        self.read(|read_| {
            let leases = read_.open_table(LEASES)?;
            let count = |range: &IpNet| -> Result<PoolUse, Failure> {
                let (first, last) = (to_bytes(range.network()), to_bytes(range.broadcast()));
                let used = leases.range::<&Bytes>(&first..=&last)?.count() as u64;
                Ok(PoolUse { cidr: range.to_string(), used, size: Room::of(range).size() })
            };
            ranges.iter().map(count).collect()
        })
    }

    fn write<T>(&self, f: impl FnOnce(&WriteTransaction) -> Result<T, Failure>) -> Result<T, IpamError> {
        let transact = || {
            let write = self.db.begin_write()?;
            // Dropped without a commit, the transaction never was.
            let answer = f(&write)?;
            write.commit()?;
            Ok(answer)
        };
        transact().map_err(|e| error(&self.path, e))
    }

    fn read<T>(&self, f: impl FnOnce(&redb::ReadTransaction) -> Result<T, Failure>) -> Result<T, IpamError> {
        let transact = || f(&self.db.begin_read()?);
        transact().map_err(|e| error(&self.path, e))
    }
}

fn error(path: &str, failure: Failure) -> IpamError {
    match failure {
        Failure::Database(cause) => IpamError::Store { path: path.to_owned(), cause: Box::new(cause) },
        Failure::Content(reason) => IpamError::Content { path: path.to_owned(), reason },
        Failure::Ipam(error) => error,
    }
}

fn key(id: &AttachmentId) -> Result<String, IpamError> {
    for (part, most) in [(&id.container_id, MAX_CONTAINER_ID), (&id.ifname, MAX_IFNAME)] {
        let bad = |c: char| c == '/' || c.is_whitespace() || c.is_control();
        if part.is_empty() || part.len() > most || part.contains(bad) {
            return Err(IpamError::Identity(part.clone()));
        }
    }
    Ok(format!("{}/{}", id.container_id, id.ifname))
}

fn read(json: &[u8]) -> Result<Lease, Failure> {
    serde_json::from_slice(json).map_err(|e| Failure::Content(format!("a lease is not readable: {e}")))
}

fn json(lease: &Lease) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(lease).map_err(|e| Failure::Content(e.to_string()))
}

fn name_host_end(write: &WriteTransaction, id: &AttachmentId, key: &str) -> Result<String, Failure> {
    let mut ifnames = write.open_table(IFNAMES)?;
    let mut attempt = 0;
    let name = loop {
        let name = names::host_ifname(id, attempt);
        if ifnames.get(name.as_str())?.is_none() {
            break name;
        }
        attempt += 1;
    };
    ifnames.insert(name.as_str(), key)?;
    Ok(name)
}

/// The tables that know addresses, in one transaction.
struct Pool<'t> {
    leases: redb::Table<'t, &'static Bytes, &'static str>,
    cooling: redb::Table<'t, &'static Bytes, u64>,
    by_age: redb::Table<'t, (u64, &'static Bytes), ()>,
    cursors: redb::Table<'t, &'static str, &'static Bytes>,
}

impl<'t> Pool<'t> {
    fn open(write: &'t WriteTransaction) -> Result<Self, Failure> {
        Ok(Pool {
            leases: write.open_table(LEASES)?,
            cooling: write.open_table(COOLING)?,
            by_age: write.open_table(COOLING_BY_AGE)?,
            cursors: write.open_table(CURSORS)?,
        })
    }

    /// Forgets what has cooled down. So is what a clock that was set back says to be of the far future.
    fn forget_cooled(&mut self, now: Moment, cool_down: u64) -> Result<(), Failure> {
        let mut cooled = Vec::new();
        for entry in self.by_age.iter()? {
            let entry = entry?.0;
            let (moment, address) = entry.value();
            if now.abs_diff(moment) >= cool_down {
                cooled.push((moment, *address));
            }
        }
        for (moment, address) in cooled {
            self.by_age.remove((moment, &address))?;
            self.cooling.remove(&address)?;
        }
        Ok(())
    }

    /// Takes an address of `range` for `key`; the flag says that it had not cooled down.
    fn take(&mut self, range: &IpNet, key: &str) -> Result<(IpAddr, bool), Failure> {
        let name = range.to_string();
        let room = Room::of(range);
        let cursor = self.cursors.get(name.as_str())?.map(|cursor| from_bytes(cursor.value()));
        // Each step that fails meets another entry of one of the tables, so a free one is found within their size.
        let steps = usize::try_from(self.leases.len()? + self.cooling.len()? + 1).unwrap_or(usize::MAX);
        let mut found = None;
        for address in room.behind(cursor).take(steps) {
            let bytes = to_bytes(address);
            if self.leases.get(&bytes)?.is_none() && self.cooling.get(&bytes)?.is_none() {
                found = Some((address, false));
                break;
            }
        }
        let Some((address, early)) = found.map_or_else(|| self.oldest_cooling(range), |found| Ok(Some(found)))? else {
            return Err(Failure::Ipam(IpamError::Exhausted { range: *range, size: room.size() }));
        };
        let bytes = to_bytes(address);
        self.leases.insert(&bytes, key)?;
        self.cursors.insert(name.as_str(), &bytes)?;
        Ok((address, early))
    }

    fn oldest_cooling(&mut self, range: &IpNet) -> Result<Option<(IpAddr, bool)>, Failure> {
        let mut oldest = None;
        for entry in self.by_age.iter()? {
            let entry = entry?.0;
            let (moment, bytes) = entry.value();
            // A range that was shifted may hold addresses that pods cannot have any more.
            let address = from_bytes(bytes);
            if range.contains(&address) && Room::of(range).holds(address) {
                oldest = Some((moment, *bytes, address));
                break;
            }
        }
        let Some((moment, bytes, address)) = oldest else { return Ok(None) };
        self.by_age.remove((moment, &bytes))?;
        self.cooling.remove(&bytes)?;
        Ok(Some((address, true)))
    }

    fn give_back(&mut self, address: IpAddr, now: Moment) -> Result<(), Failure> {
        let bytes = to_bytes(address);
        self.leases.remove(&bytes)?;
        self.cooling.insert(&bytes, now)?;
        self.by_age.insert((now, &bytes), ())?;
        Ok(())
    }
}
