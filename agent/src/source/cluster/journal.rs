//! The file of the checkpoint: lines that say what was put and what was removed, in batches.
//!
//! A batch counts once its last line is there: whatever a crash cut off, the file says what it said one batch earlier.
//! Each line carries a checksum, each batch one over its lines and over the batch before. A file that is damaged anywhere
//! else is refused whole, for nobody knows which policy it lacks. It is written anew, in its place, when more than half
//! of it has been superseded.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::hash::Hasher;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use podplane_index::{Kind, ObjectKey};
use siphasher::sip::SipHasher13;
use siphasher::sip128::{Hasher128, SipHasher13 as SipHasher13Wide};

/// The first line's beginning: what this is, and how it is to be read.
const FORMAT: &str = "podplane-checkpoint 1";
/// No line is longer: an object in etcd has 1.5 MiB at most.
const MAX_LINE: u64 = 8 * 1024 * 1024;
/// So much may be superseded before the file is written anew, however little is in force.
const SLACK: u64 = 1024 * 1024;

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refused {
    /// It cannot be read or written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It was written by another version, for another node or for another cluster.
    #[error("it is for something else (\"{0}\")")]
    Other(String),
    /// What it says cannot be what was written.
    #[error("it is damaged at byte {0}")]
    Damaged(u64),
}

/// The file, open for appending.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    owner: String,
    file: File,
    /// Where the objects in force stand, by their keys' hashes.
    live: HashMap<u128, Place>,
    live_bytes: u64,
    /// Behind the last whole batch.
    end: u64,
    /// Over all batches so far.
    chain: u64,
    complete: bool,
}

#[derive(Clone, Copy, Debug)]
struct Place {
    offset: u64,
    /// With the line's end.
    length: u32,
    sum: u64,
}

/// What becomes of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    /// It says this.
    Put(String),
    /// It says this, unless it said something else before.
    PutIfNew(String),
    /// It is gone.
    Gone,
}

impl Journal {
    /// Begins anew for `owner`, whatever was there before.
    pub(super) fn create(path: &Path, owner: &str) -> Result<Journal, Refused> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path)?;
        let header = format!("{FORMAT} {owner}\n");
        let mut journal = Journal {
            path: path.to_owned(),
            owner: owner.to_owned(),
            file,
            live: HashMap::new(),
            live_bytes: 0,
            end: header.len() as u64,
            chain: hash(header.trim_end().as_bytes()),
            complete: false,
        };
        journal.file.write_all(header.as_bytes())?;
        Ok(journal)
    }

    /// Reads what was written for `owner`; what a crash cut off is cut away.
    pub(super) fn open(path: &Path, owner: &str) -> Result<Journal, Refused> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        let mut lines = Lines { reader: BufReader::new(&file), line: Vec::new(), offset: 0 };
        let header = format!("{FORMAT} {owner}");
        match lines.next()? {
            Some(line) if line == header.as_bytes() => {}
            Some(line) => return Err(Refused::Other(String::from_utf8_lossy(&line[..line.len().min(200)]).into())),
            None => return Err(Refused::Damaged(0)),
        }
        let chain = hash(header.as_bytes());
        let mut read = Replay { live: HashMap::new(), end: lines.offset, chain, complete: false };
        let torn = read.batches(&mut lines)?;
        if torn && lines.has_another_batch()? {
            return Err(Refused::Damaged(read.end));
        }
        let Replay { live, end, chain, complete } = read;
        let live_bytes = live.values().map(|place| u64::from(place.length)).sum();
        file.set_len(end)?;
        Ok(Journal { path: path.to_owned(), owner: owner.to_owned(), file, live, live_bytes, end, chain, complete })
    }

    /// Whether all that there was had been written once.
    pub(super) fn is_complete(&self) -> bool {
        self.complete
    }

    /// Bytes of what is in force.
    pub(super) fn size(&self) -> u64 {
        self.live_bytes
    }

    /// Calls `each` with every object in force: its kind and its text.
    pub(super) fn read(&self, mut each: impl FnMut(Kind, &str)) -> Result<(), Refused> {
        let mut places: Vec<&Place> = self.live.values().collect();
        places.sort_unstable_by_key(|place| place.offset);
        for place in places {
            let line = self.line(*place)?;
            let damaged = || Refused::Damaged(place.offset);
            let (kind, text) = std::str::from_utf8(&line).ok().and_then(parse_put).ok_or_else(damaged)?;
            each(kind, text);
        }
        Ok(())
    }

    /// Writes a batch, safely on the disk when it returns. What is there already is not written again.
    pub(super) fn append(&mut self, batch: &BTreeMap<ObjectKey, Record>, complete: bool) -> Result<(), Refused> {
        let (mut text, mut sums, mut changes) = (Vec::new(), Sums(self.chain), Vec::new());
        for (key, record) in batch {
            // No API server knows such names; here they would be taken for others.
            if key.path().contains(|c: char| c.is_whitespace() || c.is_control()) {
                continue;
            }
            let id = identify(key);
            let known = self.live.get(&id);
            let content = match record {
                Record::PutIfNew(_) if known.is_some() => continue,
                Record::Put(json) | Record::PutIfNew(json) => format!("+ {:?} {} {json}", key.kind, key.path()),
                Record::Gone if known.is_none() => continue,
                Record::Gone => format!("- {:?} {}", key.kind, key.path()),
            };
            let sum = hash(content.as_bytes());
            if content.starts_with('+') && known.is_some_and(|place| place.sum == sum) {
                continue;
            }
            let offset = self.end + text.len() as u64;
            writeln!(text, "{sum:016x} {content}")?;
            sums.add(sum);
            let length = u32::try_from(self.end + text.len() as u64 - offset).map_err(io::Error::other)?;
            changes.push((id, content.starts_with('+').then_some(Place { offset, length, sum })));
        }
        let complete = complete || self.complete;
        if changes.is_empty() && complete == self.complete {
            return Ok(());
        }
        text.extend(commit(complete, sums.0));
        // What a failed attempt left behind does not stay in the way.
        self.file.set_len(self.end)?;
        self.file.write_all_at(&text, self.end)?;
        self.file.sync_data()?;
        (self.end, self.chain, self.complete) = (self.end + text.len() as u64, sums.0, complete);
        for (id, place) in changes {
            set(&mut self.live, &mut self.live_bytes, id, place);
        }
        if self.end > 2 * self.live_bytes + SLACK { self.rewrite() } else { Ok(()) }
    }

    /// Writes anew what is in force.
    fn rewrite(&mut self) -> Result<(), Refused> {
        let draft = self.path.with_extension("draft");
        let mut new = Journal::create(&draft, &self.owner)?;
        let mut writer = BufWriter::new(&new.file);
        writer.seek(SeekFrom::Start(new.end))?;
        let mut sums = Sums(new.chain);
        let mut places: Vec<(u128, Place)> = self.live.iter().map(|(id, place)| (*id, *place)).collect();
        places.sort_unstable_by_key(|(_, place)| place.offset);
        for (id, place) in places {
            writer.write_all(&self.line(place)?)?;
            sums.add(place.sum);
            new.live.insert(id, Place { offset: new.end, ..place });
            new.end += u64::from(place.length);
        }
        let last = commit(self.complete, sums.0);
        writer.write_all(&last)?;
        writer.flush()?;
        drop(writer);
        new.file.sync_data()?;
        std::fs::rename(&draft, &self.path)?;
        if let Some(folder) = self.path.parent() {
            File::open(folder)?.sync_all()?;
        }
        (new.end, new.chain, new.complete) = (new.end + last.len() as u64, sums.0, self.complete);
        (new.path, new.live_bytes) = (self.path.clone(), self.live_bytes);
        *self = new;
        Ok(())
    }

    /// A line of an object, checked once more: the disk may have changed what memory still knows.
    fn line(&self, place: Place) -> Result<Vec<u8>, Refused> {
        let mut line = vec![0; place.length as usize];
        self.file.read_exact_at(&mut line, place.offset)?;
        let content = line.strip_suffix(b"\n").and_then(check);
        match content {
            Some((sum, _)) if sum == place.sum => Ok(line),
            _ => Err(Refused::Damaged(place.offset)),
        }
    }
}

/// What was read of a file so far.
struct Replay {
    live: HashMap<u128, Place>,
    end: u64,
    chain: u64,
    complete: bool,
}

impl Replay {
    /// Reads whole batches; whether something follows that is none.
    fn batches(&mut self, lines: &mut Lines<'_>) -> Result<bool, Refused> {
        let (mut sums, mut changes) = (Sums(self.chain), Vec::new());
        loop {
            let offset = lines.offset;
            let Some(line) = lines.next()? else { return Ok(offset != self.end) };
            let Some((sum, content)) = check(line) else { return Ok(true) };
            let length = line.len() as u32 + 1;
            match (content.split_at_checked(2), std::str::from_utf8(content)) {
                (Some((b"= ", said)), _) => {
                    if said != chain_text(sums.0, b'0').as_bytes() && said != chain_text(sums.0, b'1').as_bytes() {
                        return Ok(true);
                    }
                    self.complete = said.ends_with(b"1");
                    let mut bytes = 0;
                    for (id, place) in changes.drain(..) {
                        set(&mut self.live, &mut bytes, id, place);
                    }
                    (self.end, self.chain) = (lines.offset, sums.0);
                }
                (Some((sign @ (b"+ " | b"- "), _)), Ok(text)) => {
                    let Some(key) = parse_key(text) else { return Ok(true) };
                    sums.add(sum);
                    changes.push((identify(&key), (sign == b"+ ").then_some(Place { offset, length, sum })));
                }
                _ => return Ok(true),
            }
        }
    }
}

/// The lines of a file with their places.
struct Lines<'f> {
    reader: BufReader<&'f File>,
    line: Vec<u8>,
    offset: u64,
}

impl Lines<'_> {
    /// The next line without its end; one that has no end, or none within reason, is as it is.
    fn next(&mut self) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        let n = self.reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut self.line)?;
        self.offset += n as u64;
        if n == 0 {
            return Ok(None);
        }
        // Without an end no checksum fits: what a crash cut off could be whole by chance.
        let whole = self.line.strip_suffix(b"\n");
        Ok(Some(whole.unwrap_or(b"")))
    }

    /// Whether a whole batch ends in what follows: then the file did not end where it stopped making sense.
    fn has_another_batch(&mut self) -> io::Result<bool> {
        while let Some(line) = self.next()? {
            if check(line).is_some_and(|(_, content)| content.starts_with(b"= ")) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Over the lines of a batch, and those before.
struct Sums(u64);

impl Sums {
    fn add(&mut self, sum: u64) {
        let mut hasher = SipHasher13::new_with_keys(self.0, 2);
        hasher.write_u64(sum);
        self.0 = hasher.finish();
    }
}

fn hash(content: &[u8]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(0x706f_6470_6c61_6e65, 1);
    hasher.write(content);
    hasher.finish()
}

fn identify(key: &ObjectKey) -> u128 {
    let mut hasher = SipHasher13Wide::new_with_keys(0x706f_6470_6c61_6e65, 3);
    hasher.write(format!("{key}").as_bytes());
    hasher.finish128().as_u128()
}

/// A line's checksum and content, if they fit.
fn check(line: &[u8]) -> Option<(u64, &[u8])> {
    let (stated, rest) = line.split_at_checked(16)?;
    let content = rest.strip_prefix(b" ")?;
    let sum = hash(content);
    (format!("{sum:016x}").as_bytes() == stated).then_some((sum, content))
}

fn chain_text(chain: u64, complete: u8) -> String {
    format!("{chain:016x} {}", char::from(complete))
}

/// The last line of a batch.
fn commit(complete: bool, chain: u64) -> Vec<u8> {
    let content = format!("= {}", chain_text(chain, if complete { b'1' } else { b'0' }));
    format!("{:016x} {content}\n", hash(content.as_bytes())).into_bytes()
}

/// The key in "+ Kind namespace/name ..." or "- Kind name".
fn parse_key(content: &str) -> Option<ObjectKey> {
    let mut words = content.splitn(4, ' ').skip(1);
    let (kind, path) = (words.next()?, words.next()?);
    let kind = Kind::ALL.into_iter().find(|known| format!("{known:?}") == kind)?;
    let (namespace, name) = path.split_once('/').unwrap_or(("", path));
    Some(ObjectKey { kind, namespace: namespace.to_owned(), name: name.to_owned() })
}

/// Kind and text in the whole line of an object.
fn parse_put(line: &str) -> Option<(Kind, &str)> {
    let content = line.get(17..)?;
    Some((parse_key(content)?.kind, content.splitn(4, ' ').nth(3)?.trim_end()))
}

fn set(live: &mut HashMap<u128, Place>, bytes: &mut u64, id: u128, place: Option<Place>) {
    let before = match place {
        Some(place) => {
            *bytes += u64::from(place.length);
            live.insert(id, place)
        }
        None => live.remove(&id),
    };
    *bytes = bytes.saturating_sub(before.map_or(0, |place| u64::from(place.length)));
}

#[cfg(test)]
mod tests;
