//! The text of `/metrics`, read.

use std::collections::HashMap;

/// What was counted, by series.
#[derive(Clone, Debug)]
pub(crate) struct Metrics(HashMap<String, f64>);

impl Metrics {
    pub(crate) fn parse(text: &str) -> Metrics {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let series =
            lines.filter_map(|line| line.rsplit_once(' ')).map(|(name, value)| (name.to_owned(), value.parse().unwrap()));
        Metrics(series.collect())
    }

    /// The value of a series, written as in the text without the prefix `larder_`. It has to be there.
    pub(crate) fn get(&self, series: &str) -> f64 {
        let value = self.0.get(&format!("larder_{series}"));
        *value.unwrap_or_else(|| panic!("there is no series {series}"))
    }

    /// How many requests of this kind the cache has done this for.
    pub(crate) fn requests(&self, kind: &str, cache: &str) -> f64 {
        self.get(&format!("requests_total{{kind=\"{kind}\",cache=\"{cache}\"}}"))
    }

    /// How many fills ended like this: `stored`, `not-stored` or `failed`.
    pub(crate) fn fills(&self, result: &str) -> f64 {
        self.get(&format!("fills_ended_total{{result=\"{result}\"}}"))
    }

    /// How many prefetches from Docker Hub ended like this.
    pub(crate) fn prefetches(&self, result: &str) -> f64 {
        self.get(&format!("prefetches_total{{upstream=\"docker.io\",result=\"{result}\"}}"))
    }
}
