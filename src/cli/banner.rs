//! What `larder serve` prints when it listens: where it is, where the cache is, and the lines that point each client at it.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

/// What there is to tell.
pub(super) struct Facts<'a> {
    pub(super) listen: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) is_tls: bool,
    pub(super) cache_dir: &'a Path,
    /// The most that the cache may hold, in words.
    pub(super) max_size: String,
    pub(super) default_upstream: &'a str,
    pub(super) other_upstreams: Vec<&'a str>,
}

pub(super) fn text(facts: &Facts<'_>) -> String {
    let scheme = if facts.is_tls { "https" } else { "http" };
    let address = reachable(facts.listen);
    let insecure = if facts.is_tls { "" } else { "\n    insecure = true" };
    let default = facts.default_upstream;
    let mut text = format!(
        "Larder {version} listens on {scheme}://{listen}\n\
         \x20 cache    {cache} (up to {size})\n\
         \x20 admin    http://{admin}/metrics /livez /readyz\n\
         \x20 mirrors  {default}, and by name {others}\n",
        version = env!("CARGO_PKG_VERSION"),
        listen = facts.listen,
        cache = facts.cache_dir.display(),
        size = facts.max_size,
        admin = facts.admin,
        others = facts.other_upstreams.join(", "),
    );
    text.push_str("\nTo pull through it, on this machine:\n");
    // Docker's mirrors are for Docker Hub alone, under its bare names.
    if default == "docker.io" {
        let _ = write!(
            text,
            r#"
  Docker           /etc/docker/daemon.json
    {{ "registry-mirrors": ["{scheme}://{address}"] }}
"#
        );
    }
    let _ = write!(
        text,
        r#"
  containerd       /etc/containerd/certs.d/_default/hosts.toml
    [host."{scheme}://{address}"]
    capabilities = ["pull", "resolve"]

  Podman, CRI-O, Skopeo, Buildah    /etc/containers/registries.conf.d/larder.conf
    [[registry]]
    prefix = "{default}"
    location = "{default}"
    [[registry.mirror]]
    location = "{address}/{default}"{insecure}

"#
    );
    text
}

/// An address that clients on this machine can use.
pub(super) fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

/// So many bytes as people write it: in powers of a thousand, as disks are sold.
pub(super) fn amount(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if bytes < 1000 {
        return format!("{bytes} B");
    }
    let (mut value, mut unit) = (bytes as f64 / 1e3, 0);
    // What would be rounded to a thousand is one of the next unit.
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1e3;
        unit += 1;
    }
    let digits = usize::from(value < 9.995) * 2;
    format!("{value:.digits$} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_in_the_unit_that_fits() {
        for (bytes, words) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (9_994, "9.99 kB"),
            (9_996, "10 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (3_600_000_000, "3.60 GB"),
            (216_000_000_000, "216 GB"),
            (5_000_000_000_000_000, "5000 TB"),
        ] {
            assert_eq!(amount(bytes), words);
        }
    }

    #[test]
    fn the_lines_to_paste_name_an_address_that_can_be_reached() {
        let facts = Facts {
            listen: "0.0.0.0:5050".parse().unwrap(),
            admin: "127.0.0.1:5051".parse().unwrap(),
            is_tls: false,
            cache_dir: Path::new("/var/cache/larder"),
            max_size: amount(1_500_000_000),
            default_upstream: "docker.io",
            other_upstreams: vec!["ghcr.io", "quay.io"],
        };
        let text = text(&facts);
        for line in [
            "Larder ",
            "/var/cache/larder (up to 1.50 GB)",
            "docker.io, and by name ghcr.io, quay.io",
            r#"{ "registry-mirrors": ["http://127.0.0.1:5050"] }"#,
            r#"[host."http://127.0.0.1:5050"]"#,
            r#"location = "127.0.0.1:5050/docker.io""#,
            "insecure = true",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }
}
