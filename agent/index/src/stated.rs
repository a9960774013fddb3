//! When slices say that their endpoints changed.

use std::collections::HashMap;

use crate::k8s::EndpointSlice;

/// The most times that are kept between two looks.
const MAX: usize = 1024;

/// The times that slices state, each once.
#[derive(Debug, Default)]
pub(crate) struct StatedTimes {
    /// The last word of each slice: a slice that is listed again says nothing new.
    known: HashMap<String, String>,
    news: Vec<String>,
}

impl StatedTimes {
    pub(crate) fn apply(&mut self, path: String, slice: &EndpointSlice) {
        let Some(stated) = slice.metadata.annotations.as_ref().and_then(|annotations| annotations.changed.clone())
        else {
            self.known.remove(&path);
            return;
        };
        if self.known.get(&path) != Some(&stated) {
            self.known.insert(path, stated.clone());
            if self.news.len() < MAX {
                self.news.push(stated);
            }
        }
    }

    pub(crate) fn delete(&mut self, path: &str) {
        self.known.remove(path);
    }

    /// What was stated since the last call.
    pub(crate) fn take(&mut self) -> Vec<String> {
        std::mem::take(&mut self.news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::k8s::{Annotations, Metadata};

    #[test]
    fn a_time_that_is_stated_again_is_no_news() {
        let slice = |time: Option<&str>| {
            let annotations = Some(Annotations { changed: time.map(str::to_owned), ..Annotations::default() });
            EndpointSlice { metadata: Metadata { annotations, ..Metadata::default() }, ..EndpointSlice::default() }
        };
        let mut stated = StatedTimes::default();
        for time in [Some("1"), Some("1"), Some("2"), None, Some("2")] {
            stated.apply("a/b".into(), &slice(time));
        }
        assert_eq!(stated.take(), ["1", "2", "2"]);
        stated.delete("a/b");
        assert!(stated.take().is_empty() && stated.known.is_empty());
    }
}
