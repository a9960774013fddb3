use super::*;

fn key(name: &str) -> ObjectKey {
    ObjectKey { kind: Kind::Pod, namespace: "a".into(), name: name.into() }
}

fn batch(records: &[(&str, Record)]) -> BTreeMap<ObjectKey, Record> {
    records.iter().map(|(name, record)| (key(name), record.clone())).collect()
}

fn put(text: &str) -> Record {
    Record::Put(text.into())
}

fn texts(journal: &Journal) -> Vec<String> {
    let mut texts = Vec::new();
    journal.read(|kind, text| texts.push(format!("{kind:?} {text}"))).unwrap();
    texts.sort();
    texts
}

struct Setup {
    folder: tempfile::TempDir,
}

impl Setup {
    fn new() -> (Setup, Journal) {
        let setup = Setup { folder: tempfile::tempdir().unwrap() };
        let journal = Journal::create(&setup.path(), "me").unwrap();
        (setup, journal)
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("checkpoint")
    }

    fn open(&self) -> Result<Journal, Refused> {
        Journal::open(&self.path(), "me")
    }
}

#[test]
fn what_was_written_last_is_read() {
    let (setup, mut journal) = Setup::new();
    assert!(!setup.open().unwrap().is_complete());
    journal.append(&batch(&[("p", put("1")), ("q", put("2 with spaces")), ("r", put("3"))]), false).unwrap();
    journal.append(&batch(&[("p", put("4")), ("q", Record::Gone), ("s", Record::Gone)]), true).unwrap();
    journal
        .append(&batch(&[("p", Record::PutIfNew("5".into())), ("t", Record::PutIfNew("6 6".into()))]), false)
        .unwrap();
    let mut journal = setup.open().unwrap();
    assert!(journal.is_complete());
    assert_eq!(texts(&journal), ["Pod 3", "Pod 4", "Pod 6 6"]);
    let size = std::fs::metadata(setup.path()).unwrap().len();
    journal.append(&batch(&[("p", put("4")), ("nobody here", put("7"))]), true).unwrap();
    assert_eq!(std::fs::metadata(setup.path()).unwrap().len(), size, "what is there is not written again");
    assert!(matches!(Journal::open(&setup.path(), "another"), Err(Refused::Other(_))));
}

#[test]
fn what_a_crash_cut_off_is_cut_away() {
    let (setup, mut journal) = Setup::new();
    journal.append(&batch(&[("p", put("1"))]), true).unwrap();
    let first = std::fs::metadata(setup.path()).unwrap().len() as usize;
    journal.append(&batch(&[("p", put("2")), ("q", put("3"))]), true).unwrap();
    let whole = std::fs::read(setup.path()).unwrap();
    for length in first..whole.len() {
        std::fs::write(setup.path(), &whole[..length]).unwrap();
        assert_eq!(texts(&setup.open().unwrap()), ["Pod 1"], "{length} of {}", whole.len());
    }
    // Blocks of the disk that were never written.
    let mut zeros = whole[..first + 20].to_vec();
    zeros.resize(whole.len(), 0);
    std::fs::write(setup.path(), &zeros).unwrap();
    let mut journal = setup.open().unwrap();
    journal.append(&batch(&[("r", put("4"))]), true).unwrap();
    assert_eq!(texts(&setup.open().unwrap()), ["Pod 1", "Pod 4"]);
}

#[test]
fn damage_is_seen_wherever_it_is() {
    let (setup, mut journal) = Setup::new();
    for n in 0..4 {
        journal.append(&batch(&[("p", put(&n.to_string())), (&format!("q{n}"), put("x"))]), true).unwrap();
    }
    let whole = std::fs::read(setup.path()).unwrap();
    let last = whole.windows(6).rposition(|window| window == b"+ Pod ").unwrap() - 200;
    for at in 0..whole.len() {
        for bit in [1, 32] {
            let mut bad = whole.clone();
            bad[at] ^= bit;
            std::fs::write(setup.path(), &bad).unwrap();
            match setup.open() {
                Err(_) => {}
                // Damage of the last batch cannot be told from a crash while it was written.
                Ok(journal) => {
                    assert!(at > last, "{at} of {}", whole.len());
                    assert_eq!(texts(&journal), ["Pod 2", "Pod x", "Pod x", "Pod x"], "{at}");
                }
            }
        }
    }
}

#[test]
fn it_does_not_grow_without_end() {
    let (setup, mut journal) = Setup::new();
    let text = "x".repeat(100_000);
    for n in 0..100 {
        journal
            .append(&batch(&[("p", put(&format!("{n}{text}"))), (&format!("q{}", n % 3), put(&n.to_string()))]), n > 50)
            .unwrap();
        assert!(std::fs::metadata(setup.path()).unwrap().len() < SLACK + 400_000);
    }
    let read = setup.open().unwrap();
    assert!(read.is_complete() && read.size() == journal.size());
    assert_eq!(texts(&read), texts(&journal));
    assert_eq!(texts(&read)[0], "Pod 97");
    journal.append(&batch(&[("p", Record::Gone)]), true).unwrap();
    assert_eq!(texts(&setup.open().unwrap()), ["Pod 97", "Pod 98", "Pod 99"]);
}
