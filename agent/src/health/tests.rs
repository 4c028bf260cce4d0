use std::{os::unix::fs::PermissionsExt as _, path::PathBuf};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::{dead_man::DeadManProgram, directory::Directory};

struct Bench {
    dir: tempfile::TempDir,
    host: Directory,
    clock: Clock,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let clock = Clock::system();
        let program = DeadManProgram {
            program: vec!["/bin/true".to_owned()],
            config: PathBuf::new(),
        };
        let host = Directory::open(dir.path(), dir.path(), clock.clone(), program)
            .await
            .expect("a machine");
        Self { dir, host, clock }
    }

    async fn check(&self, probe: Probe) -> CheckResult {
        let check = Check {
            name: "it".to_owned(),
            timeout: Duration::from_millis(1500),
            probe,
        };
        let since = Since::Mark;
        let unit = (Family::Check, "1-1");
        run_all(&self.host, &self.clock, &[check], unit, since)
            .await
            .checks
            .remove(0)
    }

    fn script(&self, text: &str) -> Vec<String> {
        let path = self.dir.path().join("script");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("executable");
        vec![path.to_string_lossy().into_owned()]
    }
}

/// A server that answers every request with this.
async fn serve(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            if stream.read(&mut request).await.unwrap_or(0) > 0 {
                stream.write_all(answer.as_bytes()).await.ok();
            }
        }
    });
    address
}

/// The same over TLS, and the certificate that nobody has signed.
async fn serve_tls(answer: &'static str) -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("signed");
    let chain = vec![certificate.der().clone()];
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = rustls::ServerConfig::builder_with_provider(platform::identity::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .expect("a certificate");
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let mut request = [0; 1024];
            if stream.read(&mut request).await.unwrap_or(0) > 0 {
                stream.write_all(answer.as_bytes()).await.ok();
                stream.shutdown().await.ok();
            }
        }
    });
    (format!("localhost:{port}"), certificate.pem())
}

/// Whom a machine trusts is read once in a process, so the one that does runs this test again.
#[tokio::test]
async fn a_web_service_over_tls_is_believed_when_its_certificate_is() {
    const TRUSTED: &str = "LAB_TEST_TRUSTED_SERVER";
    // As `main` does; another test may have been first.
    (*platform::identity::provider())
        .clone()
        .install_default()
        .ok();
    let bench = Bench::new().await;
    let probe = |address: &str| Probe::Http {
        url: format!("https://{address}/health"),
        status: None,
        contains: Some("ready".to_owned()),
    };
    if let Ok(address) = std::env::var(TRUSTED) {
        let result = bench.check(probe(&address)).await;
        assert!(result.passed, "{}", result.detail);
        return;
    }
    let (address, certificate) = serve_tls(OK).await;
    let result = bench.check(probe(&address)).await;
    assert!(!result.passed, "{}", result.detail);
    assert!(result.detail.contains("certificate"), "{}", result.detail);

    let trusted = bench.dir.path().join("trusted.pem");
    fs::write(&trusted, certificate).expect("written");
    let test = concat!(
        "health::tests::",
        "a_web_service_over_tls_is_believed_when_its_certificate_is"
    );
    let again = tokio::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", test, "--nocapture"])
        .env("SSL_CERT_FILE", &trusted)
        .env(TRUSTED, &address)
        .output()
        .await
        .expect("started");
    let said = String::from_utf8_lossy(&again.stdout);
    assert!(again.status.success(), "{said}");
    assert!(said.contains("1 passed"), "it ran: {said}");
}

fn http_probe(address: &str, status: Option<u16>, contains: Option<&str>) -> Probe {
    Probe::Http {
        url: format!("http://{address}/health"),
        status,
        contains: contains.map(str::to_owned),
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nready";
const BROKEN: &str = "HTTP/1.1 503 Gone\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

#[tokio::test]
async fn a_web_service_is_judged_by_status_and_body() {
    let bench = Bench::new().await;
    let (good, bad) = (serve(OK).await, serve(BROKEN).await);
    assert!(bench.check(http_probe(&good, None, None)).await.passed);
    assert!(
        bench
            .check(http_probe(&good, None, Some("ready")))
            .await
            .passed
    );
    assert!(
        !bench
            .check(http_probe(&good, None, Some("steady")))
            .await
            .passed
    );
    assert!(!bench.check(http_probe(&good, Some(204), None)).await.passed);
    assert!(bench.check(http_probe(&bad, Some(503), None)).await.passed);
    let result = bench.check(http_probe(&bad, None, None)).await;
    assert!(
        !result.passed && result.detail.contains("503"),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_service_that_accepts_and_says_nothing_fails_in_time() {
    let bench = Bench::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    let begun = std::time::Instant::now();
    let result = bench.check(http_probe(&address, None, None)).await;
    assert!(
        !result.passed && result.detail.contains("no answer within"),
        "{result:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
    let tcp = Probe::Tcp { address };
    assert!(bench.check(tcp).await.passed);
}

#[tokio::test]
async fn one_address_that_answers_is_a_network() {
    let bench = Bench::new().await;
    let good = serve(OK).await;
    let network = |addresses: &[&str]| Probe::Network {
        addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
    };
    assert!(bench.check(network(&["127.0.0.1:1", &good])).await.passed);
    assert!(!bench.check(network(&["127.0.0.1:1"])).await.passed);
}

#[tokio::test]
async fn a_command_is_judged_by_its_status_and_cannot_hang_the_agent() {
    let bench = Bench::new().await;
    let command = |script: &str| Probe::Command {
        command: bench.script(script),
    };
    let good = bench.check(command("echo fine")).await;
    assert!(good.passed && good.detail == "fine", "{good:?}");
    let bad = bench
        .check(command("echo '\x1b[31mbroken' >&2; exit 3"))
        .await;
    assert!(
        !bad.passed && bad.detail == "exit status 3 [31mbroken",
        "{bad:?}"
    );
    let killed = bench.check(command("kill -9 $$")).await;
    assert!(
        !killed.passed && killed.detail.contains("signal 9"),
        "{killed:?}"
    );
    let hung = bench.check(command("sleep 60")).await;
    assert!(!hung.passed, "{hung:?}");
    let missing = Probe::Command {
        command: vec!["/no/such/program".to_owned()],
    };
    assert!(!bench.check(missing).await.passed);
}

#[tokio::test]
async fn the_machine_itself_is_looked_at() {
    let bench = Bench::new().await;
    let disk = |free_bytes_min| Probe::Disk {
        path: "/".into(),
        free_bytes_min,
    };
    assert!(bench.check(disk(1)).await.passed);
    assert!(!bench.check(disk(u64::MAX)).await.passed);
    let memory = |available_bytes_min| Probe::Memory {
        available_bytes_min,
    };
    assert!(bench.check(memory(1)).await.passed);
    assert!(!bench.check(memory(u64::MAX)).await.passed);
    assert!(bench.check(Probe::Load { per_cpu_max: 1e9 }).await.passed);
    let unit = Probe::Unit {
        unit: "nginx.service".to_owned(),
    };
    assert!(!bench.check(unit).await.passed);
}

#[tokio::test]
async fn only_new_and_serious_journal_entries_count() {
    let bench = Bench::new().await;
    let journal = bench.host.links().at("/run/lab-updater/journal");
    fs::write(&journal, "2 old trouble\n").expect("written");
    bench.host.mark_journal().await.expect("marked");
    let probe = Probe::Journal {
        priority: 2,
        entries_max: 0,
    };
    assert!(bench.check(probe.clone()).await.passed);
    fs::write(&journal, "2 old trouble\n5 chatter\n").expect("written");
    assert!(bench.check(probe.clone()).await.passed);
    fs::write(&journal, "2 old trouble\n5 chatter\n1 new trouble\n").expect("written");
    let result = bench.check(probe).await;
    assert!(
        !result.passed && result.detail.contains("new trouble"),
        "{result:?}"
    );
}

#[tokio::test]
async fn a_backup_is_as_old_as_its_newest_file() {
    let bench = Bench::new().await;
    let backups = bench.dir.path().join("backups");
    let file = |path: &Path| Probe::File {
        path: path.to_owned(),
        age_max: Duration::from_secs(3600),
    };
    let result = bench.check(file(&backups)).await;
    assert!(!result.passed, "{result:?}");
    fs::create_dir(&backups).expect("made");
    let result = bench.check(file(&backups)).await;
    assert!(
        !result.passed && result.detail.contains("no file in it"),
        "{result:?}"
    );
    let written = |name: &str, ago: u64| {
        let path = backups.join(name);
        let file = fs::File::create(&path).expect("made");
        let time = SystemTime::now() - Duration::from_secs(ago);
        file.set_modified(time).expect("dated");
        path
    };
    let old = written("1.tar", 7200);
    let result = bench.check(file(&backups)).await;
    assert!(!result.passed, "{result:?}");
    assert!(
        result.detail.contains("written 2 h ago, at most 1 h"),
        "{result:?}"
    );
    written("2.tar", 600);
    assert!(bench.check(file(&backups)).await.passed);
    assert!(!bench.check(file(&old)).await.passed);
}

#[test]
fn what_is_dated_in_the_future_proves_nothing() {
    let now = SystemTime::now();
    let hour = Duration::from_secs(3600);
    assert!(young_enough(now + hour, now, hour).is_err());
    let seconds = Duration::from_secs(5);
    assert!(
        young_enough(now + seconds, now, hour).is_ok(),
        "two clocks are never the same"
    );
    assert!(young_enough(now - hour, now, hour).is_ok());
    assert!(young_enough(now - hour - seconds, now, hour).is_err());
}

#[test]
fn the_kernel_is_read_as_it_writes() {
    let meminfo = "MemTotal: 16 kB\nMemAvailable:    2048 kB\n";
    assert_eq!(memory(meminfo, "MemAvailable"), Some(2048 * 1024));
    assert_eq!(memory("MemAvailable: lots", "MemAvailable"), None);
    assert_eq!(first_load("0.50 0.60 0.70 1/100 1"), Some(0.5));
    assert_eq!(first_load(""), None);
    assert!(load_within(4.0, 4, 1.0).is_ok() && load_within(4.1, 4, 1.0).is_err());
}

#[test]
fn a_command_cannot_take_the_whole_machine() {
    let command = ["/bin/true".to_owned()];
    let unit = command_unit(&command, Duration::from_secs(9), Family::Check, "0-1");
    assert_eq!(unit.within, Duration::from_secs(9));
    assert_eq!(unit.resources.tasks_max, Some(CHECK_TASKS_MAX));
}
