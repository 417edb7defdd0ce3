//! Nothing secret is in anything that others read (security rule 14).

use larder_testkit::{Auth, Fault, Listener};

use crate::support::{Larder, NAME, TAG, blob, hub_with, image, manifest, prepare, pull};

/// A pull with every kind of failure on its way, at the most talkative log level, and then a look into everything it left.
#[tokio::test]
async fn no_secret_is_in_logs_metrics_answers_or_files() {
    let image = image(1200, &[4 << 20, 1_000]);
    let layer = image.layers()[0].digest();
    let mut secrets = vec!["canary-user".to_owned(), "canary-password".to_owned(), "canary".to_owned()];
    let mut seen = String::new();
    for (auth, format) in [(Auth::Bearer, "text"), (Auth::Basic, "json")] {
        let hub = prepare(&image)
            .auth(auth)
            .user("canary-user", "canary-password")
            .private(NAME, &["canary-user"])
            .start()
            .await
            .unwrap();
        let larder = Larder::with(
            &hub,
            &format!(
                r#"
                freshness.tags = "0s"
                freshness.missing = "0s"
                timeouts.headers = "1s"
                log = {{ level = "trace", format = "{format}" }}
                upstreams."docker.io" = {{ username = "canary-user", password = "canary-password", open_to_all = true }}
                "#
            ),
        )
        .await;
        let own = [
            ("Authorization", "Basic Y2FuYXJ5OmNhbmFyeQ=="),
            ("Proxy-Authorization", "Bearer client-canary"),
            ("Cookie", "session=client-canary"),
        ];
        secrets.extend(["Y2FuYXJ5OmNhbmFyeQ==", "client-canary"].map(str::to_owned));
        let mut answers = Vec::new();
        hub.fault(Fault::on(Listener::Cdn).once().cut_at(1 << 20));
        hub.fault(Fault::on(Listener::Cdn).skip(1).once().status(403));
        let mut connection = larder.connect().await;
        answers.push(connection.ask("GET", &format!("{}?token=client-canary", blob(layer)), &own).await);
        pull(&larder, NAME, TAG).await;
        hub.clear_faults();
        let registry = || Fault::on(Listener::Registry).path_contains("/manifests/");
        let with_credential = hub.url().replace("http://", "http://canary:canary@");
        for fault in [
            registry().redirect("http://169.254.169.254/canary?signature=canary"),
            registry().redirect("https://cdn.example.test/canary?signature=canary"),
            registry().redirect(&format!("{with_credential}/x?signature=canary")),
            registry().answer(401, &[("WWW-Authenticate", "Bearer realm=\"https://evil.example/canary?canary\"")], "canary"),
            registry().answer(500, &[("X-Canary", "canary")], "canary"),
            registry().answer(429, &[("Retry-After", "canary")], "canary"),
            registry().hold(),
            Fault::on(Listener::Token).answer(401, &[], "{\"details\":\"canary-password is wrong\"}"),
            Fault::on(Listener::Token).answer(200, &[], "{\"token\":\"canary\nx\"}"),
            Fault::on(Listener::Token).close(),
        ] {
            hub.revoke_tokens();
            hub.fault(fault);
            for target in [manifest(TAG), manifest("2.0"), format!("{}?canary", manifest("2.0"))] {
                answers.push(larder.ask("GET", &target, &own).await);
            }
            hub.clear_faults();
        }
        hub.stop_listening().await;
        answers.push(larder.ask("GET", &manifest("3.0"), &own).await);
        answers.push(larder.ask("POST", &manifest("3.0"), &own).await);

        let sent = hub.requests();
        for record in sent.records() {
            let authorization = record.headers.get("authorization").and_then(|value| value.split_once(' '));
            secrets.extend(authorization.map(|(_, secret)| secret.to_owned()));
            if record.listener == Listener::Cdn {
                secrets.push(record.query.clone());
                let parameters = record.query.split('&').filter_map(|pair| pair.split_once('='));
                secrets.extend(parameters.map(|(_, value)| value.to_owned()).filter(|value| value.len() >= 16));
            }
        }
        let metrics = larder.admin_get("/metrics").await;
        seen.push_str(&larder.log());
        seen.push_str(std::str::from_utf8(&metrics.body).unwrap());
        for answer in answers {
            seen.push_str(&format!(
                "{:?}\n{}\n",
                answer.head,
                String::from_utf8_lossy(&answer.body[..answer.body.len().min(4096)])
            ));
        }
        for file in larder.all_files() {
            let is_ours = file.file_name().is_some_and(|name| name == "larder.toml");
            let content = std::fs::read(&file).unwrap();
            if !is_ours && content.len() < 1 << 20 {
                seen.push_str(&String::from_utf8_lossy(&content));
            }
        }
    }
    secrets.sort();
    secrets.dedup();
    assert!(secrets.len() >= 8, "the tokens and signatures are among them: {secrets:?}");
    for secret in &secrets {
        let found = seen.lines().find(|line| line.contains(secret.as_str()));
        assert_eq!(found, None, "{secret:?}");
    }
    // All that was looked into was there.
    assert!(seen.contains("stale-") && seen.contains("larder_requests_total") && seen.contains("SQLite format 3"));
}

/// What is sent from a file is as good as sent for whoever sends it, long before the client has it.
#[tokio::test]
async fn the_line_of_a_client_that_left_says_how_much_it_was_sent() {
    const SIZE: u64 = 32 << 20;
    let image = image(1202, &[SIZE]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "log = { format = 'json', level = 'info' }").await;
    larder.download(blob(layer)).await;
    larder.until_idle().await;
    let mut client = larder.connect().await;
    client.request("GET", &blob(layer), &[]).await;
    client.until_received(500_000).await;
    drop(client);
    larder.until_logged("\"complete\":false").await;
    let lines: Vec<serde_json::Value> = larder.access_lines("").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let said = lines.iter().map(|line| (line["complete"].as_bool().unwrap(), line["bytes"].as_u64().unwrap()));
    let [(true, SIZE), (false, sent)] = said.collect::<Vec<_>>()[..] else { panic!("{lines:?}") };
    // What is more than that is what the system holds for a client: up to 4 MiB here, and 6 at the client's end.
    assert!((500_000..16 << 20).contains(&sent), "{sent}");
}

/// Issue 2: one access line per request, and what it says.
#[tokio::test]
async fn every_request_has_one_line_that_says_what_it_was() {
    let image = image(1201, &[100_000]);
    let layer = image.layers()[0].digest();
    let hub = hub_with(&image).await;
    let larder = Larder::with(&hub, "log = { format = 'json', level = 'info' }").await;
    larder.ask("GET", &format!("{}?ns=docker.io&x=secret", manifest(TAG)), &[("User-Agent", "containerd/2.3.4")]).await;
    larder.download(blob(layer)).await;
    larder.until_idle().await;
    larder.get_range(blob(layer), "bytes=0-99").await;
    larder.get(manifest("absent")).await;
    larder.until_logged("reference\":\"absent\"").await;
    let lines: Vec<serde_json::Value> = larder.access_lines("").iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let fields = |name: &str| lines.iter().map(|line| line[name].to_string().replace('"', "")).collect::<Vec<_>>();
    assert_eq!(fields("method"), ["GET"; 4]);
    assert_eq!(fields("kind"), ["manifest", "blob", "blob", "manifest"]);
    assert_eq!(fields("upstream"), ["docker.io"; 4]);
    assert_eq!(fields("repository"), [NAME; 4]);
    assert_eq!(fields("reference"), [TAG, "null", "null", "absent"]);
    assert_eq!(fields("digest"), [image.manifest().digest.as_str(), layer.as_str(), layer.as_str(), "null"]);
    assert_eq!(fields("status"), ["200", "200", "206", "404"]);
    assert_eq!(fields("bytes")[1..3], ["100000", "100"]);
    assert_eq!(fields("cache"), ["miss", "miss", "hit", "error"]);
    assert_eq!(lines[0]["user_agent"], "containerd/2.3.4");
    assert!(lines.iter().all(|line| line["ttfb_ms"].is_number() && line["duration_ms"].is_number()));
    assert!(!larder.log().contains("secret"));
    let metrics = larder.metrics().await;
    let counted = [("manifest", "miss"), ("blob", "miss"), ("blob", "hit"), ("manifest", "error")];
    assert_eq!(counted.map(|(kind, cache)| metrics.requests(kind, cache)), [1.0; 4]);
}
