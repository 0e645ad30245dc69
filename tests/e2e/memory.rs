//! `ulimit -v`: a limit of each process, which a shell sets and all workers inherit. Limits of
//! containers are read the same way (`coordinator/src/memory/tests.rs`).

use std::process::{Command, Output};

use crate::harness::{Permit, binfer};

const SETTINGS: i32 = 78;

/// `binfer ARGS` where no process may have more than so many MiB of addresses.
fn limited(mib: u32, args: &[&str]) -> Output {
    let program = binfer();
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"ulimit -v "$0" && exec "$@""#, &(mib * 1024).to_string()]);
    shell.arg(program.get_program()).args(args);
    let variables = program.get_envs().filter_map(|(name, value)| Some((name, value?)));
    shell.envs(variables).output().unwrap()
}

fn words(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_cache_is_as_large_as_a_limit_of_addresses_allows_and_no_larger() {
    let _permit = Permit::one();
    let run = ["run", "demo", "Once upon a time", "--max-tokens", "3", "--threads", "2"];
    for tp in ["1", "2"] {
        let ranks = ["--tp", tp];
        let taken = limited(1100, &[&run[..], &ranks].concat());
        assert!(taken.status.success(), "{taken:?}");
        assert!(words(&taken).contains("(ulimit -v, 1100 MiB)"), "{taken:?}");
        // What may be asked for at most is really there.
        let asked = |tokens: &str| {
            limited(1100, &[&run[..], &ranks, &["--kv-cache-tokens", tokens]].concat())
        };
        let refused = asked("1000000");
        assert_eq!(refused.status.code(), Some(SETTINGS), "{refused:?}");
        let said = words(&refused);
        assert!(said.contains("ulimit -v, 1100 MiB") && said.contains("give fewer"), "{said}");
        let most = said.split("1000000: ").nth(1).unwrap().split(' ').next().unwrap();
        let largest = asked(most);
        assert!(largest.status.success(), "{largest:?}");
    }
    let none = limited(350, &[&run[..], &["--tp", "1"]].concat());
    assert_eq!(none.status.code(), Some(SETTINGS), "{none:?}");
    assert!(words(&none).contains("the model does not fit"), "{none:?}");
}
