//! A real Prometheus that scrapes a real target. Where there is none the tests say so and pass; with
//! `LAB_REQUIRE_FLEET=1` they fail.

use std::{
    io::Write as _,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use coordinator_core::analysis::Finding;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::{Instant, sleep},
};

use super::{
    is, measure,
    servers::{Answer, answers, closed, listens, response},
};

const REQUIRE: &str = "LAB_REQUIRE_FLEET";

/// A Prometheus of its own directory; ended with the test.
pub(crate) struct Prometheus {
    process: Child,
    pub(crate) address: String,
    _directory: TempDir,
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

impl Prometheus {
    /// One that looks at this target every second. `None` where Prometheus is not installed.
    #[allow(clippy::print_stderr, reason = "says why a test is skipped")]
    pub(crate) async fn watching(target: SocketAddr) -> Option<Self> {
        let there = Command::new("prometheus").arg("--version").output().is_ok();
        if !there {
            assert!(
                std::env::var_os(REQUIRE).is_none_or(|value| value != "1"),
                "{REQUIRE}=1, and there is no prometheus"
            );
            eprintln!("skipped: there is no prometheus on this host");
            return None;
        }
        let directory = TempDir::new().expect("a directory");
        let config = directory.path().join("prometheus.yml");
        let text = format!(
            "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nscrape_configs:\n\
             - job_name: target\n  static_configs:\n  - targets: ['{target}']\n"
        );
        let mut file = std::fs::File::create(&config).expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        let address = closed().await;
        let process = run(&config, directory.path(), address);
        let prometheus = Self {
            process,
            address: format!("http://{address}"),
            _directory: directory,
        };
        // Ready once the target was seen.
        let up = prometheus.within("up", &json!({ "atLeast": 1 }));
        let deadline = Instant::now() + Duration::from_secs(60);
        while measure(&up).await.finding != Finding::Pass {
            assert!(Instant::now() < deadline, "{:?}", measure(&up).await);
            sleep(Duration::from_millis(200)).await;
        }
        Some(prometheus)
    }

    /// A gate with this query.
    pub(crate) fn within(&self, query: &str, more: &Value) -> Value {
        let mut gate = json!({ "promql": query, "prometheus": self.address });
        let map = gate.as_object_mut().expect("an object");
        map.extend(more.as_object().expect("an object").clone());
        gate
    }
}

fn run(config: &Path, directory: &Path, address: SocketAddr) -> Child {
    let log = std::fs::File::create(directory.join("log")).expect("a file");
    Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            directory.join("data").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("it starts")
}

/// A target with one value, in thousandths, that goes up and down around what it is set to.
pub(crate) async fn target() -> (SocketAddr, Arc<AtomicU64>) {
    let value = Arc::new(AtomicU64::new(1000));
    let listener = listens().await;
    let address = listener.local_addr().expect("bound");
    let shown = value.clone();
    tokio::spawn(async move {
        let mut asked = 0_u64;
        while let Ok((mut stream, _)) = listener.accept().await {
            asked += 1;
            let millis = shown.load(Ordering::Relaxed) + (asked * 37) % 100;
            let body = format!(
                "# TYPE latency gauge\nlatency {}.{:03}\n# TYPE zero gauge\nzero 0\n",
                millis / 1000,
                millis % 1000
            );
            let headers = "content-type: text/plain; version=0.0.4\r\n";
            let text = response("200 OK", headers, &body);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _some = stream.read(&mut request).await;
                stream.write_all(text.as_bytes()).await.ok();
                stream.shutdown().await.ok();
            });
        }
    });
    (address, value)
}

#[tokio::test]
async fn a_query_is_held_against_its_bounds() {
    let (target, _) = target().await;
    let Some(prometheus) = Prometheus::watching(target).await else {
        return;
    };
    let ask = async |query: &str, more: Value| measure(&prometheus.within(query, &more)).await;
    let found = ask("latency", json!({ "atLeast": 1, "atMost": 1.1 })).await;
    is(&found, Finding::Pass, "it is 1");
    let found = ask("latency", json!({ "atMost": 0.5 })).await;
    is(&found, Finding::Fail, "at most 0.5");
    let found = ask("scalar(latency) * 0 + 3", json!({ "atLeast": 3 })).await;
    is(&found, Finding::Pass, "it is 3");
    // Answers that say neither.
    let found = ask("no_such_metric", json!({ "atMost": 1 })).await;
    is(&found, Finding::Inconclusive, "finds nothing");
    let found = ask("zero / zero", json!({ "atMost": 1 })).await;
    is(&found, Finding::Inconclusive, "NaN");
    let found = ask("latency / zero", json!({ "atMost": 1 })).await;
    is(&found, Finding::Fail, "inf");
    // And questions that make no sense.
    let found = ask("sum(", json!({ "atMost": 1 })).await;
    is(&found, Finding::Error, "parse error");
    let found = ask("latency[1m]", json!({ "atMost": 1 })).await;
    is(&found, Finding::Error, "ranges");
    let found = ask("\"text\"", json!({ "atMost": 1 })).await;
    is(&found, Finding::Error, "a text");
}

#[tokio::test]
async fn what_is_no_prometheus_is_an_error() {
    let ask = async |address: SocketAddr| {
        let gate = json!({
            "promql": "up", "prometheus": format!("http://{address}"), "atLeast": 1, "timeout": "2s",
        });
        measure(&gate).await
    };
    is(&ask(closed().await).await, Finding::Error, "refused");
    let page = answers(Answer::Http("200 OK", "<html>Welcome</html>")).await;
    is(&ask(page).await, Finding::Error, "not as a Prometheus");
    let empty = answers(Answer::Http("200 OK", "{}")).await;
    is(&ask(empty).await, Finding::Error, "no data");
    let other = r#"{"status":"success","data":{"resultType":"vector","result":[{"value":[1,2]}]}}"#;
    let other = answers(Answer::Http("200 OK", other)).await;
    is(&ask(other).await, Finding::Error, "not as a Prometheus");
    let ill = r#"{"status":"error","errorType":"unavailable","error":"it starts"}"#;
    let ill = answers(Answer::Http("503 Service Unavailable", ill)).await;
    is(&ask(ill).await, Finding::Error, "it starts");
    let endless = answers(Answer::Endless).await;
    is(&ask(endless).await, Finding::Error, "longer than is read");
    let silent = answers(Answer::Silence).await;
    is(&ask(silent).await, Finding::Error, "no answer within 2s");
}
