//! A coordinator whose disk fills up: it ends before it tells anybody what it could not keep, says
//! what to do, gives up its ballast to start once more, and has forgotten nothing. An agent whose
//! disk is full: what its way back takes lies ready. On a real, small file system; needs root.

use std::{
    env,
    fs::{self, File},
    io::Write as _,
    net::SocketAddr,
    path::Path,
};

use agent::{
    ballast::Ballast,
    state_file::{StateFile, StateStore as _},
    verdict::{Judge, Verdicts},
};
use agent_core::Durable;
use common::{LeaseId, Timestamp, error_chain::Chain};
use coordinator::{Config, Server, ServerError, driver::Handle};
use coordinator_core::{
    Reply, Request,
    identity::{Actor, Holder, Role},
    request::OperatorRequest,
};
use integration_tests::powercut::{Cache, Drive};
use platform::clock::Clock;

/// Set where skipping is a failure.
const REQUIRE: &str = "LAB_REQUIRE_FLEET";

const MIB: u64 = 1024 * 1024;

fn config(state_dir: &Path) -> Config {
    let anywhere: SocketAddr = "127.0.0.1:0".parse().expect("an address");
    Config {
        state_dir: state_dir.to_owned(),
        machine: None,
        listen: anywhere,
        enrol_listen: anywhere,
        lives: coordinator::ca::Lives::default(),
        rates: coordinator::limits::Rates::default(),
        caps: coordinator::connections::Caps::members(1000, 1000),
        clock: Clock::system(),
    }
}

/// Takes every byte that is left.
fn fill(path: &Path) {
    let mut options = File::options();
    let mut filler = options
        .create(true)
        .append(true)
        .open(path)
        .expect("a file");
    for size in [1 << 20, 4096, 1] {
        let block = vec![7; size];
        while filler.write_all(&block).is_ok() {}
    }
    filler.sync_all().ok();
}

/// Makes a token; its id, or nothing when the coordinator ends.
async fn token(handle: &Handle, number: u64) -> Option<String> {
    let actor = Actor {
        name: "ada".parse().expect("a name"),
        role: Role::Admin,
        serial: String::new(),
    };
    let request = OperatorRequest::CreateToken {
        secret_hash: format!("{number:064x}"),
        holder: Holder::Operator {
            name: "eve".parse().expect("a name"),
            role: Role::Viewer,
        },
        expires_at: Timestamp::MAX,
    };
    let answer = handle
        .ask(Request::Operator { actor, request })
        .await
        .ok()?;
    let Reply::Token(id) = answer.reply else {
        panic!("{:?}", answer.reply);
    };
    Some(id)
}

fn known(handle: &Handle, tokens: &[String]) -> bool {
    let registry = handle.registry();
    tokens.iter().all(|id| registry.tokens.contains_key(id))
}

/// A small disk; none where the host cannot, which is then said.
#[allow(clippy::print_stderr, reason = "says why a test is skipped")]
fn small_disk(place: &Path) -> Option<Drive> {
    let drive =
        Drive::keep_mounts_private().and_then(|()| Drive::new(place, 96 * MIB, Cache::None));
    match drive {
        Ok(drive) => Some(drive),
        Err(error) => {
            let why = Chain(&error);
            assert!(env::var_os(REQUIRE).is_none(), "{REQUIRE} is set: {why}");
            eprintln!(
                "skipped: no file system can be mounted here, it takes root and e2fsprogs: {why}"
            );
            None
        }
    }
}

#[test]
fn an_agent_on_a_full_disk_has_what_its_way_back_takes() {
    let place = tempfile::tempdir().expect("a directory");
    let Some(drive) = small_disk(place.path()) else {
        return;
    };
    let directory = drive.path().join("agent");
    fs::create_dir(&directory).expect("made");
    let (verdicts, ballast) = (Verdicts::new(&directory), Ballast::within(&directory));
    let state = StateFile::new(directory.join("agent.json"));
    let mut durable = Durable::new();
    state.save(&durable).expect("saved");
    verdicts.prepare(LeaseId(7)).expect("laid ready");
    ballast.keep().expect("kept");
    fill(&drive.path().join("filler"));
    fs::write(directory.join("more"), [7; 4096]).expect_err("it is full");

    let judge = verdicts.claim(LeaseId(7), Judge::DeadMan);
    assert_eq!(judge.expect("it takes no space"), Judge::DeadMan);
    let boot = "a-boot".parse().expect("a boot id");
    let may = verdicts.may_boot_back(LeaseId(7), &boot);
    assert!(may.expect("it takes no space"));
    assert!(directory.join("ballast").exists(), "not even the ballast");

    durable.lease = LeaseId(7);
    state.save(&durable).expect("saved on the ballast");
    assert!(!directory.join("ballast").exists());
    assert_eq!(state.load().expect("readable"), Some(durable));
}

#[test]
fn a_coordinator_on_a_full_disk_forgets_nothing_and_says_what_to_do() {
    let place = tempfile::tempdir().expect("a directory");
    let Some(drive) = small_disk(place.path()) else {
        return;
    };
    let state = drive.path().join("state");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(fill_and_start_again(&state, &drive.path().join("filler")));
}

async fn fill_and_start_again(state: &Path, filler: &Path) {
    let ballast = state.join("ballast");
    let mut tokens = Vec::new();

    let mut server = Server::start(&config(state)).await.expect("a coordinator");
    assert!(ballast.exists());
    fill(filler);
    // What it still has room for in its file is taken, then it ends.
    while let Some(id) = token(server.handle(), tokens.len() as u64).await {
        tokens.push(id);
        assert!(tokens.len() < 100_000, "the disk is full, and it goes on");
    }
    let why = server.failed().await;
    let text = Chain(&why).to_string();
    assert!(text.contains("before anybody is told"), "{text}");
    assert!(
        text.contains("free some space there and start again"),
        "{text}"
    );
    drop(server);

    // On its ballast it starts, knows everything, and works.
    let mut server = Server::start(&config(state))
        .await
        .expect("started on its ballast");
    assert!(!ballast.exists());
    assert!(known(server.handle(), &tokens));
    let id = token(server.handle(), tokens.len() as u64).await;
    tokens.push(id.expect("room again"));

    // Nobody frees any space: it ends once more, and now does not start.
    fill(filler);
    while let Some(id) = token(server.handle(), tokens.len() as u64).await {
        tokens.push(id);
        assert!(tokens.len() < 200_000, "the disk is full, and it goes on");
    }
    assert!(matches!(server.failed().await, ServerError::Driver(_)));
    drop(server);
    let refused = Server::start(&config(state))
        .await
        .err()
        .expect("no room at all");
    let text = Chain(&refused).to_string();
    assert!(
        text.contains("free some space there and start again"),
        "{text}"
    );

    // With space again all is as it was, and a new ballast is kept.
    fs::remove_file(filler).expect("removed");
    let server = Server::start(&config(state)).await.expect("a coordinator");
    assert!(ballast.exists());
    assert!(known(server.handle(), &tokens));
    server.stop().await.expect("stopped");
}
