//! Where objects come from a folder nobody takes what is told: it goes to the log, and to `podplane status`.

use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use futures_util::future::{BoxFuture, ready};

use super::report::{Condition, Event, Report, ReportError, Severity, TAINT};

/// Tells the log.
#[derive(Debug, Default)]
pub struct LogReport(Mutex<Vec<Condition>>);

impl Report for LogReport {
    fn conditions<'a>(&'a self, conditions: &'a [Condition]) -> BoxFuture<'a, Result<(), ReportError>> {
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for condition in conditions {
            let then = said.iter().find(|then| then.kind == condition.kind);
            if then.is_none_or(|then| condition.turned(then) || condition.says_other(then)) {
                let Condition { kind, status, reason, .. } = condition;
                tracing::info!(condition = kind, status, reason, message = condition.text(), "condition");
            }
        }
        *said = conditions.to_vec();
        ready(Ok(())).boxed()
    }

    fn taint(&self, is_ready: bool) -> BoxFuture<'_, Result<(), ReportError>> {
        let should = if is_ready { "not be there" } else { "be there with effect NoSchedule" };
        tracing::info!(taint = TAINT, "the taint should {should}; a folder is not written to");
        ready(Ok(())).boxed()
    }

    fn event<'a>(&'a self, _: &'a str, event: &'a Event, count: u32) -> BoxFuture<'a, Result<(), ReportError>> {
        let Event { severity, reason, note, about } = event;
        match severity {
            Severity::Normal => tracing::info!(reason, ?about, count, "{note}"),
            Severity::Warning => tracing::warn!(reason, ?about, count, "{note}"),
        }
        ready(Ok(())).boxed()
    }
}
