//! What the figures were measured on, in a line.

use std::fs;
use std::time::SystemTime;

/// Date, processor, kernel, how TCP paces what is sent (which changes what a byte costs by a factor of seven), and how busy the machine
/// was already.
pub(crate) fn describe() -> String {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model =
        cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map_or("unknown", |(_, model)| model);
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    format!(
        "{date}; {cores} cores of {model}; Linux {kernel}; TCP {congestion_control}; load before: {load}",
        date = httpdate::fmt_http_date(SystemTime::now()),
        kernel = read("/proc/sys/kernel/osrelease").trim(),
        congestion_control = read("/proc/sys/net/ipv4/tcp_congestion_control").trim(),
        load = read("/proc/loadavg").split(' ').next().unwrap_or_default(),
    )
}
