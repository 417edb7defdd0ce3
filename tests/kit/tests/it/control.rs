//! The control listener and the binary.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};

use larder_testkit::Control;
use serde_json::{Value, json};

use crate::client::{Answer, Connection, End, NAME, get, plain_hub};

/// A hub under control, over HTTP alone.
struct Remote {
    urls: Value,
}

impl Remote {
    async fn command(&self, method: &str, path: &str, body: Value) -> Answer {
        let authority = self.url("control").strip_prefix("http://").unwrap();
        let body = body.to_string();
        let mut connection = Connection::open(authority).await;
        connection.ask_with_body(method, path, &body).await
    }

    async fn get(&self, path: &str) -> Value {
        let answer = self.command("GET", path, Value::Null).await;
        assert_eq!(answer.status, 200, "{path}");
        answer.json()
    }

    fn url(&self, listener: &str) -> &str {
        self.urls[listener].as_str().unwrap()
    }

    fn manifest(&self, reference: &str) -> String {
        format!("{}/v2/{NAME}/manifests/{reference}", self.url("registry"))
    }
}

async fn controlled() -> (Control, Remote) {
    let (hub, ..) = plain_hub(1000).await;
    let control = Control::start(hub, ([127, 0, 0, 1], 0).into()).await.unwrap();
    let urls = control.urls();
    (control, Remote { urls })
}

#[tokio::test]
async fn faults_are_put_watched_released_and_removed() {
    let (control, remote) = controlled().await;
    let fault = json!({
        "listener": "registry", "path_contains": ["/manifests/"], "times": 1,
        "actions": [{"hold": {"at": 5}}, {"cut": {"at": 9, "with": "fin"}}],
    });
    let id = remote.command("POST", "/faults", fault).await.json()["id"].clone();
    let url = remote.manifest("1");
    let pull = tokio::spawn(async move { get(&url).await });
    let held = || control.hub().faults()[0].held;
    while held() == 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(remote.get("/faults").await[0]["held"], 1);
    let released = remote.command("POST", &format!("/faults/{id}/release"), Value::Null).await;
    assert_eq!(released.status, 200);
    let answer = pull.await.unwrap();
    assert_eq!((answer.end, answer.body.len()), (End::Fin, 9));
    let faults = remote.get("/faults").await;
    assert_eq!((&faults[0]["matched"], &faults[0]["fired"]), (&json!(1), &json!(1)));

    let path = format!("/faults/{id}");
    assert_eq!(remote.command("DELETE", &path, Value::Null).await.status, 200);
    assert_eq!(remote.command("DELETE", &path, Value::Null).await.status, 404);
    let wrong = json!({"listener": "registry", "actions": ["explode"]});
    assert_eq!(remote.command("POST", "/faults", wrong).await.status, 400);
    remote.command("POST", "/faults", json!({"listener": "cdn", "actions": []})).await;
    remote.command("DELETE", "/faults", Value::Null).await;
    assert_eq!(remote.get("/faults").await, json!([]));
}

#[tokio::test]
async fn requests_are_found_and_counted() {
    let (_control, remote) = controlled().await;
    get(&remote.manifest("1")).await;
    get(&remote.manifest("none")).await;
    let found = remote.get("/requests?listener=registry&method=GET&path=none&status=404").await;
    assert_eq!(found["count"], 1);
    assert_eq!(found["requests"][0]["outcome"], "complete");
    assert_eq!(found["requests"][0]["headers"][0], json!(["Host", "hub"]));
    let summary = remote.get("/summary").await;
    assert_eq!(summary["registry"]["manifest_gets"], 2);
    assert_eq!(summary["registry"]["connections"]["accepted"], 2);
    assert_eq!(summary["auth_leaks"], 0);
    remote.command("POST", "/reset", Value::Null).await;
    assert_eq!(remote.get("/requests?listener=registry").await["count"], 0);
    assert_eq!(remote.command("GET", "/requests?colour=red", Value::Null).await.status, 400);
}

#[tokio::test]
async fn switches_and_listeners_are_turned_at_run_time() {
    let (_control, remote) = controlled().await;
    let patch = json!({"auth": "bearer", "rate_limit": {"limit": 3}});
    let config = remote.command("PATCH", "/config", patch).await.json();
    assert_eq!(config["rate_limit"]["window_ms"], 21_600_000);
    assert_eq!(get(&remote.manifest("1")).await.status, 401);
    let wrong = remote.command("PATCH", "/config", json!({"auth": "kerberos"})).await;
    assert_eq!(wrong.status, 400);

    let patch = json!({"listening": {"registry": false}});
    let config = remote.command("PATCH", "/config", patch).await.json();
    assert_eq!(config["listening"], json!({"registry": false, "token": true, "cdn": true}));
    let address = remote.url("registry").strip_prefix("http://").unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err());
    let patch = json!({"listening": {"registry": true}, "auth": "none"});
    remote.command("PATCH", "/config", patch).await;
    assert_eq!(get(&remote.manifest("1")).await.status, 200);
}

/// The binary, ended with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

#[tokio::test]
async fn the_binary_says_where_it_listens_and_serves_what_its_flags_say() {
    let flags = [
        "--auth=none",
        "--image=library/app:1=1000,2000",
        "--cdn=127.0.0.2:0",
        "--tls=token",
        "--user=alice:secret",
        "--private=library/app=alice,bob",
        r#"--config={"presign_ttl_ms": 5}"#,
    ];
    let child = Command::new(env!("CARGO_BIN_EXE_larder-hub")).args(flags).stdout(Stdio::piped()).spawn().unwrap();
    let mut process = Process(child);
    let mut line = String::new();
    let stdout = process.0.stdout.take().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    let remote = Remote { urls: serde_json::from_str(&line).unwrap() };

    let manifest = get(&remote.manifest("1")).await.json();
    assert_eq!(manifest["layers"][1]["size"], 2000);
    let digest = manifest["layers"][1]["digest"].as_str().unwrap();
    let blob = get(&format!("{}/v2/{NAME}/blobs/{digest}", remote.url("registry"))).await;
    assert!(blob.header("location").unwrap().starts_with("http://127.0.0.2:"));
    assert!(remote.url("token").starts_with("https://"));
    let config = remote.get("/config").await;
    assert_eq!(config["private"][NAME], json!(["alice", "bob"]));
    assert_eq!(config["presign_ttl_ms"], 5);
    let pem = remote.command("GET", "/ca.pem", Value::Null).await;
    assert!(pem.body.starts_with(b"-----BEGIN CERTIFICATE-----"));
}
