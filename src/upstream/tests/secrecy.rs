//! Nothing secret is ever seen in an error or in a log, whatever goes wrong.

use std::io;
use std::net::Ipv4Addr;

use tracing_subscriber::fmt::MakeWriter;

use super::server::serve_on;
use super::*;

/// A log that is kept in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn canaries_do_not_sing() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(log.clone()).finish();
    // While there is only one subscriber, an event that another test's thread happens to reach first is switched off for all
    // threads: hence a second one.
    let _second = tracing::Dispatch::new(tracing_subscriber::fmt().with_writer(io::sink).finish());
    let _guard = tracing::subscriber::set_default(subscriber);

    let cdn = serve_on(Ipv4Addr::new(127, 0, 0, 2), None, |seen| match seen.path() {
        "/short" => Reply::new(200).cut(b"0", 10),
        "/coded" => Reply::new(200).header("content-encoding", "gzip").body(b"0"),
        "/loop" => Reply::redirect(307, &format!("{}?sig=canary-signature", seen.path())),
        "/clear" => Reply::redirect(307, "http://canary-user:canary-password@127.0.0.9/?sig=canary-signature"),
        "/inside" => Reply::redirect(307, "http://127.0.0.9/?sig=canary-signature"),
        "/name" => Reply::redirect(307, "http://localhost:1/?sig=canary-signature"),
        "/gone" => Reply::redirect(307, "http://127.0.0.1:1/?sig=canary-signature"),
        _ => Reply::new(403).body(b"canary-signature"),
    });
    let target = cdn.url();
    let server = serve(move |seen| match (seen.path(), seen.header("authorization")) {
        ("/token", _) if seen.query().contains("limited") => Reply::new(429).body(b"canary-token"),
        ("/token", _) if seen.query().contains("odd") => Reply::json("{\"token\":\"canary-token\\u0000\"}"),
        ("/token", _) => Reply::json(r#"{"token":"canary-token"}"#),
        (_, None) => Reply::new(401).header(
            "www-authenticate",
            &format!(r#"Bearer realm="http://{}/token?k=canary-realm""#, seen.header("host").unwrap()),
        ),
        (_, Some(_)) => Reply::redirect(307, &format!("{target}/{}?sig=canary-signature", seen.repository())),
    });
    let credential = Some(("user".to_owned(), crate::util::Secret::new("canary-password")));
    let config = RegistryConfig { credential, ..trusting(config(&server.url()), &[&cdn]) };
    let mut shown = format!("{config:?}");
    let registry = registry(config);
    let cases = ["short", "coded", "loop", "clear", "inside", "name", "gone", "denied", "limited", "odd"];
    for repository in cases {
        let error = fetch_error(&registry, manifest(repository)).await;
        shown.push_str(&format!("\n{error} {error:?}"));
    }
    assert!(server.seen().iter().any(|seen| seen.header("authorization") == Some("Bearer canary-token")), "they were there");
    assert!(cdn.seen().iter().any(|seen| seen.query().contains("canary-signature")), "they were there");

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("asked") && log.contains("refused"), "the log was written: {log}");
    for line in shown.lines().chain(log.lines()) {
        assert!(!line.contains("canary") && !line.contains("Y2FuYXJ5"), "{line}");
    }
}
