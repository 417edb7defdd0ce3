//! Logs and metrics. It knows words and numbers, and none of the layers that they come from.

mod logging;
mod metrics;

pub use logging::{LogFormat, init as init_logging};
pub use metrics::{Levels, Metrics, RequestFacts, RequestKind, Totals, UpstreamLevels, UpstreamTotals, Words};
