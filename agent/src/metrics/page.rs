//! Writes what was sampled, metric by metric.

use std::fmt::Error;

use prometheus_client::encoding::{DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// The labels of one value.
pub(super) type Labels = Vec<(&'static str, String)>;

/// The page that is being written.
pub(super) struct Page<'a>(pub(super) DescriptorEncoder<'a>);

impl Page<'_> {
    /// One counter without labels; `name` without its `_total`.
    pub(super) fn total(&mut self, name: &str, help: &str, value: impl EncodeCounterValue) -> Result<(), Error> {
        self.totals(name, help, [(Labels::new(), value)])
    }

    /// A counter with a value for each set of labels.
    pub(super) fn totals<V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, V)>,
    ) -> Result<(), Error> {
        self.family(name, help, MetricType::Counter, values.into_iter().map(|(l, value)| (l, ConstCounter::new(value))))
    }

    /// One gauge without labels.
    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl EncodeGaugeValue) -> Result<(), Error> {
        self.gauges(name, help, [(Labels::new(), value)])
    }

    /// A gauge with a value for each set of labels.
    pub(super) fn gauges<V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Labels, V)>,
    ) -> Result<(), Error> {
        self.family(name, help, MetricType::Gauge, values.into_iter().map(|(l, value)| (l, ConstGauge::new(value))))
    }

    /// Nothing at all where there is no value: a name alone says nothing.
    fn family<M: EncodeMetric>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        values: impl Iterator<Item = (Labels, M)>,
    ) -> Result<(), Error> {
        let mut values = values.peekable();
        if values.peek().is_none() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in values {
            if labels.is_empty() {
                return value.encode(family);
            }
            value.encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
