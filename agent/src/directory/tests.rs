use std::os::unix::fs::symlink;

use agent_core::RebootKind;

use super::{units::begun_at, *};
use crate::host::End;

fn path(name: &str) -> StorePath {
    format!("/nix/store/0c5y5y5y5y5y5y5y5y5y5y5y5y5y5y5y-{name}")
        .parse()
        .expect("a path")
}

struct Bench {
    _dir: tempfile::TempDir,
    cache: Links,
    host: Directory,
}

async fn bench() -> Bench {
    let dir = tempfile::tempdir().expect("a directory");
    let (root, cache) = (dir.path().join("root"), dir.path().join("cache"));
    let program = DeadManProgram {
        program: ["/bin/sh", "-c", "sleep 60"].map(str::to_owned).into(),
        config: PathBuf::new(),
    };
    let host = Directory::open(&root, &cache, Clock::system(), program)
        .await
        .expect("a machine");
    fs::create_dir_all(cache.join("nix/store")).expect("made");
    Bench {
        cache: Links::new(&cache),
        host,
        _dir: dir,
    }
}

fn unit(tag: &str, script: &str, within: Duration) -> Unit {
    Unit {
        family: Family::Check,
        tag: tag.to_owned(),
        description: String::new(),
        command: vec!["/bin/sh".to_owned(), "-c".to_owned(), script.to_owned()],
        environment: vec![("WORD".to_owned(), "a b".to_owned())],
        within,
        resources: crate::host::Resources::default(),
        run_as: crate::host::RunAs::Root,
        may_begin: MayBegin::Always,
    }
}

const LONG: Duration = Duration::from_secs(20);

#[tokio::test]
async fn generations_are_numbered_as_nix_env_does() {
    let bench = bench().await;
    let host = &bench.host;
    let number = || host.links().generation();
    assert_eq!(number(), None);
    host.set_profile("1-1", &path("a"), MayBegin::Always)
        .await
        .expect("set");
    assert_eq!(number(), Some(1));
    host.set_profile("1-1", &path("a"), MayBegin::Always)
        .await
        .expect("set");
    assert_eq!(number(), Some(1));
    host.set_profile("1-1", &path("b"), MayBegin::Always)
        .await
        .expect("set");
    host.set_profile("1-1", &path("a"), MayBegin::Always)
        .await
        .expect("set");
    assert_eq!(number(), Some(3));
    let paths: Vec<StorePath> = host
        .links()
        .generations()
        .into_iter()
        .map(|g| g.path)
        .collect();
    assert_eq!(paths, [path("a"), path("b"), path("a")]);
}

#[tokio::test]
async fn a_unit_runs_once_and_keeps_its_result_until_it_is_cleared() {
    let bench = bench().await;
    let once = unit("1-2", "echo run >>$LAB_ROOT/runs; echo $WORD; exit 4", LONG);
    for _ in 0..2 {
        let ran = bench.host.run(&once).await.expect("ran");
        assert_eq!(ran.end, End::Exited(4));
        assert_eq!(ran.output, "a b\n");
    }
    let runs = || fs::read_to_string(bench.host.links().at("/runs")).expect("there");
    assert_eq!(runs(), "run\n");
    let step = StepId { life: 1, number: 2 };
    assert!(bench.host.has_unit(step).await.expect("seen"));
    bench.host.clear("1-2").await.expect("cleared");
    assert!(!bench.host.has_unit(step).await.expect("seen"));
    bench.host.run(&once).await.expect("ran");
    assert_eq!(runs(), "run\nrun\n");
}

#[tokio::test]
async fn a_unit_whose_time_is_up_is_killed_with_its_children() {
    let bench = bench().await;
    let slow = unit(
        "1-3",
        "sleep 60 & echo $! >$LAB_ROOT/child; wait",
        Duration::from_millis(300),
    );
    let ran = bench.host.run(&slow).await.expect("ran");
    assert_eq!(ran.end, End::TimedOut);
    let child = fs::read_to_string(bench.host.links().at("/child")).expect("there");
    let child: i32 = child.trim().parse().expect("a number");
    for _ in 0..100 {
        if begun_at(child).is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the child lives on");
}

#[tokio::test]
async fn a_program_that_does_not_exist_never_ran() {
    let bench = bench().await;
    let mut missing = unit("1-4", "", LONG);
    missing.command = vec!["/no/such/program".to_owned()];
    let ran = bench.host.run(&missing).await.expect("tried");
    assert!(matches!(ran.end, End::NotStarted(_)), "{ran:?}");
}

#[tokio::test]
async fn a_closure_comes_with_everything_it_links_to() {
    let bench = bench().await;
    for (name, file) in [("system", "nixos-version"), ("linux", "bzImage")] {
        let directory = bench.cache.at(path(name).as_str());
        fs::create_dir_all(&directory).expect("made");
        fs::write(directory.join(file), name).expect("written");
    }
    let kernel = format!("{}/bzImage", path("linux"));
    symlink(
        kernel,
        bench.cache.at(path("system").as_str()).join("kernel"),
    )
    .expect("linked");
    let target = Target::Closure(path("system"));
    let step = StepId::default();
    let (got, _) = bench
        .host
        .obtain(step, &target, LONG)
        .await
        .expect("obtained");
    assert_eq!(got, path("system"));
    assert!(bench.host.is_complete(&path("linux")).await.expect("seen"));
    let missing = Target::Closure(path("missing"));
    assert!(bench.host.obtain(step, &missing, LONG).await.is_err());
    assert!(
        !bench
            .host
            .is_complete(&path("missing"))
            .await
            .expect("seen")
    );
}

#[tokio::test]
async fn the_dead_man_timer_can_be_called_off() {
    let bench = bench().await;
    let lease = LeaseId(5);
    bench
        .host
        .arm(lease, Duration::from_secs(3600))
        .await
        .expect("armed");
    let file = bench.host.dead_man_file(lease);
    let pid = living(&file).expect("at work");
    bench.host.disarm(lease).await.expect("called off");
    bench.host.disarm(lease).await.expect("nothing to do");
    for _ in 0..100 {
        if begun_at(pid.as_raw()).is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the timer lives on");
}

#[tokio::test]
async fn a_reboot_starts_the_boot_default_and_ends_what_was_at_work() {
    let bench = bench().await;
    let host = &bench.host;
    let before = host.boot_id().expect("a boot");
    symlink(path("new").as_str(), host.links().at(BOOT_DEFAULT)).expect("linked");
    assert_eq!(
        host.reboot(RebootKind::Machine).await.expect("booted"),
        Reboot::Happened
    );
    assert_ne!(host.boot_id().expect("a boot"), before);
    assert_eq!(host.links().resolve(CURRENT), Some(path("new")));
    assert_eq!(host.links().resolve(BOOTED), Some(path("new")));
}
