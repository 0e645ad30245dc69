//! Models by their id on the hub: fetched by the commands, found again offline.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::harness::{Permit, binfer, repository};
use crate::hub_server::{COMMIT, Fault, HubServer, REPOSITORY};

/// The hub as the program's environment describes it.
struct Hub {
    server: HubServer,
    home: PathBuf,
}

impl Hub {
    fn new(test: &str) -> Self {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hub-{test}"));
        let _ = std::fs::remove_dir_all(&home);
        Self { server: HubServer::of_folder(&repository("tests/fixtures/tiny/qwen3")), home }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = binfer();
        command.env("HF_HOME", &self.home).env("HF_ENDPOINT", &self.server.endpoint);
        for name in
            ["HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "SSL_CERT_FILE"]
        {
            command.env_remove(name);
        }
        command.env("NO_PROXY", "127.0.0.1").args(args);
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }
}

#[test]
fn a_proxy_that_cannot_be_used_is_refused_and_its_password_not_shown() {
    let hub = Hub::new("proxy");
    for (proxy, cause) in [
        (
            "http://me:secret@[broken",
            "HTTPS_PROXY is not the URL of a proxy; set it as http://HOST",
        ),
        ("ftp://me:secret@host", "HTTPS_PROXY is not the URL of a proxy; set it as http://HOST"),
        ("socks5://me:secret@host", "HTTPS_PROXY: SOCKS proxies are not supported"),
    ] {
        let mut pull = hub.command(&["pull", REPOSITORY]);
        for name in ["ALL_PROXY", "all_proxy", "https_proxy", "HTTP_PROXY", "http_proxy"] {
            pull.env_remove(name);
        }
        let output = pull.env("HTTPS_PROXY", proxy).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{proxy}: {stderr}");
        assert!(stderr.contains(cause) && !stderr.contains("secret"), "{stderr}");
    }
    assert!(hub.server.seen().is_empty());
}

fn good(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn an_id_is_fetched_once_and_answers_as_the_folder_does_with_and_without_the_hub() {
    let _permit = Permit::one();
    let hub = Hub::new("run");
    let folder = repository("tests/fixtures/tiny/qwen3");
    let args = |model| ["run", model, "some words", "--use-template", "--max-tokens", "24", "-q"];
    let expected = good(&hub.run(&args(folder.to_str().unwrap())));
    assert!(expected.len() > 24, "{expected}");
    assert!(hub.server.seen().is_empty());
    assert_eq!(good(&hub.run(&args(REPOSITORY))), expected);
    assert!(!hub.server.seen().is_empty());
    let offline =
        |args: &[&str]| good(&hub.command(args).env("HF_HUB_OFFLINE", "1").output().unwrap());
    assert_eq!(offline(&args(REPOSITORY)), expected);
    assert!(offline(&["pull", REPOSITORY]).trim_end().ends_with(COMMIT));
    assert_eq!(good(&hub.run(&args(REPOSITORY))), expected);
    assert!(hub.server.seen().is_empty());
}

#[test]
fn a_cache_entry_of_a_snapshot_is_ignored_once_the_snapshot_has_changed() {
    let _permit = Permit::one();
    let hub = Hub::new("shard-cache");
    let cache = hub.home.join("shards");
    let run = |flags: &[&str]| {
        let args = ["run", REPOSITORY, "some words", "--max-tokens", "2", "-v", "--shard-cache"];
        let output = hub.run(&[&args[..], &[cache.to_str().unwrap()], flags].concat());
        good(&output);
        String::from_utf8(output.stderr).unwrap()
    };
    assert!(run(&[]).contains("shards written"));
    assert!(!run(&[]).contains("--shard-cache"));

    // The blob of the weights is downloaded again, then a snapshot brings other settings.
    let snapshot = hub.home.join("hub/models--some-org--tiny.model/snapshots").join(COMMIT);
    let blob = std::fs::canonicalize(snapshot.join("model.safetensors")).unwrap();
    let copy = blob.with_extension("copy");
    std::fs::copy(&blob, &copy).unwrap();
    std::fs::rename(&copy, &blob).unwrap();
    let said = run(&[]);
    let why = "model.safetensors (time of change, inode) changed since it was cut";
    assert!(said.contains(why) && said.contains("ignored; remove it"), "{said}");
    assert!(run(&["--shard-cache-verify"]).contains("shards verified"));
    let settings = snapshot.join("generation_config.json");
    std::fs::remove_file(&settings).unwrap();
    std::fs::write(&settings, "{\"top_p\": 0.5}").unwrap();
    let said = run(&["--shard-cache-verify"]);
    assert!(said.contains("generation_config.json changed since it was cut: ignored"), "{said}");
}

#[test]
fn pull_prints_the_folder_and_says_nothing_else_without_a_terminal() {
    let hub = Hub::new("pull");
    std::fs::create_dir_all(&hub.home).unwrap();
    std::fs::write(hub.home.join("token"), "of-the-file\n").unwrap();
    let output = hub.run(&["pull", REPOSITORY]);
    let folder = hub.home.join("hub/models--some-org--tiny.model/snapshots").join(COMMIT);
    assert_eq!(good(&output), format!("{}\n", folder.display()));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    let seen = hub.server.seen();
    let shown = |token: &str| seen.iter().any(|s| s.authorization.as_deref() == Some(token));
    assert!(shown("Bearer of-the-file") && folder.join("tokenizer.json").is_file());
    // Said twice, the nearer one holds.
    let cache = hub.home.join("elsewhere");
    let mut nearer = hub.command(&["pull", REPOSITORY, "-q"]);
    nearer.env("HF_HUB_CACHE", &cache).env("HF_TOKEN", "of-the-environment");
    assert!(good(&nearer.output().unwrap()).starts_with(cache.to_str().unwrap()));
    let seen = hub.server.seen();
    assert!(seen.iter().any(|s| s.authorization.as_deref() == Some("Bearer of-the-environment")));
}

#[test]
fn what_cannot_be_had_is_refused_with_both_readings_of_the_name() {
    let hub = Hub::new("refused");
    let refused = |output: Output, status: i32, words: &str| {
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(status), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    };
    refused(hub.run(&["run", "no-org/no-model", "x"]), 78, "and no such file or folder here");
    refused(
        hub.run(&["run", "./no-model", "x"]),
        78,
        "no such file or folder, and no id on the hub",
    );
    refused(hub.run(&["pull", "tests"]), 78, "tests: no id on the hub (ORG/NAME");
    refused(hub.run(&["run", REPOSITORY, "x", "--revision", "v9"]), 78, "no such revision");
    refused(hub.run(&["run", REPOSITORY, "x", "--revision", "../.."]), 78, "cannot be a revision");
    refused(hub.run(&["run", "demo", "x", "--revision", "main"]), 78, "--revision is for ids");
    let mut offline = hub.command(&["run", REPOSITORY, "x"]);
    refused(offline.env("HF_HUB_OFFLINE", "1").output().unwrap(), 78, "HF_HUB_OFFLINE is set");
    hub.server.fault("GET /model.safetensors", Fault::WrongByte);
    refused(hub.run(&["pull", REPOSITORY]), 69, "it was deleted, try again");
    let elsewhere = |name: &str, value: &str| {
        hub.command(&["pull", REPOSITORY]).env(name, value).output().unwrap()
    };
    refused(elsewhere("HF_ENDPOINT", "nonsense"), 78, "HF_ENDPOINT");
    refused(elsewhere("HF_HOME", "/proc/none"), 78, "HF_HOME can name another folder");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let refusing = elsewhere("HF_ENDPOINT", &format!("http://{nobody}"));
    refused(refusing, 69, "refused (os error 111); check the network and HF_ENDPOINT");
}

/// Whatever goes wrong, and however often it is told.
#[test]
fn no_message_holds_a_token_or_a_password() {
    let hub = Hub::new("secrets");
    let address = hub.server.endpoint.strip_prefix("http://").unwrap();
    let endpoint = format!("http://somebody:sesame@{address}");
    let told = |variables: &[(&str, &str)]| {
        let mut command = hub.command(&["pull", REPOSITORY, "--revision", "v9"]);
        command.env("HF_TOKEN", "hf_sesame").envs(variables.iter().copied());
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && !stderr.is_empty(), "{output:?}");
        assert!(!stderr.contains("sesame") && !stderr.contains("somebody"), "{stderr}");
        stderr
    };
    let answer = |status: &'static str, header: &str| {
        hub.server.fault("GET /api", Fault::Answer(status, header.to_owned()));
    };
    assert!(told(&[("HF_ENDPOINT", &endpoint)]).contains(&format!("revision on {address}")));
    for status in ["401 Unauthorized", "403 Forbidden", "404 Not Found", "418 Teapot"] {
        answer(status, "");
        told(&[("HF_ENDPOINT", &endpoint)]);
    }
    answer("302 Found", "Location: http://somebody:sesame@127.0.0.1:1/\r\n");
    told(&[("HF_ENDPOINT", &endpoint)]);
    told(&[("HF_ENDPOINT", "ftp://somebody:sesame@host")]);
    told(&[("HF_ENDPOINT", "http://somebody:ses/ame:sesame@ho st")]);
}

#[test]
fn folders_are_named_and_the_hub_is_left_alone_as_python_s_library_reads_it() {
    let hub = Hub::new("variables");
    std::fs::create_dir_all(&hub.home).unwrap();
    let home = hub.home.to_str().unwrap();
    let pull = |variables: &[(&str, &str)]| {
        let mut command = hub.command(&["pull", REPOSITORY]);
        command.env("HOME", home).current_dir(home).env_remove("HF_HOME");
        command.envs(variables.iter().copied()).output().unwrap()
    };
    for (said, meant) in
        [("~/a", "a"), ("$HOME/b", "b"), ("${HOME}/c", "c"), ("$NONE/d", "$NONE/d")]
    {
        let folder = hub.home.join(meant).join("hub/models--some-org--tiny.model/snapshots");
        let printed = good(&pull(&[("HF_HOME", said)]));
        let printed = std::fs::canonicalize(hub.home.join(printed.trim())).unwrap();
        assert_eq!(printed, std::fs::canonicalize(folder.join(COMMIT)).unwrap(), "{said}");
    }
    let cached = good(&pull(&[("HF_HUB_CACHE", "~/e")]));
    assert!(cached.starts_with(&format!("{home}/e/models--")), "{cached}");
    hub.server.seen();
    let offline = |variables: &[(&str, &str)]| {
        let all = [&[("HF_HOME", "~/a")], variables].concat();
        good(&pull(&all));
        hub.server.seen().is_empty()
    };
    assert!(offline(&[("TRANSFORMERS_OFFLINE", "1")]));
    assert!(offline(&[("HF_HUB_OFFLINE", ""), ("TRANSFORMERS_OFFLINE", "yes")]));
    assert!(offline(&[("HF_HUB_OFFLINE", "True"), ("TRANSFORMERS_OFFLINE", "0")]));
    assert!(!offline(&[("HF_HUB_OFFLINE", "0"), ("TRANSFORMERS_OFFLINE", "1")]));
    let output = pull(&[("HF_HOME", "~/none"), ("TRANSFORMERS_OFFLINE", "ON")]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("and TRANSFORMERS_OFFLINE is set"), "{said}");
}

#[test]
fn a_snapshot_that_another_program_left_half_full_is_completed_or_told_of() {
    let _permit = Permit::one();
    let hub = Hub::new("half");
    let args = ["run", REPOSITORY, "some words", "--use-template", "--max-tokens", "8"];
    let expected = good(&hub.run(&args));
    let repository = hub.home.join("hub/models--some-org--tiny.model");
    let snapshot = repository.join("snapshots").join(COMMIT);
    let empty = || {
        std::fs::remove_file(snapshot.join("tokenizer_config.json")).unwrap();
        std::fs::remove_dir_all(repository.join(".no_exist")).unwrap();
    };
    empty();
    let offline = hub.command(&["run", REPOSITORY, "x", "--max-tokens", "1"]);
    let output = { offline }.env("HF_HUB_OFFLINE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("the cache does not have tokenizer_config.json"), "{said}");
    assert_eq!(good(&hub.run(&args)), expected);
    hub.server.seen();
    assert_eq!(good(&hub.run(&args)), expected);
    assert!(hub.server.seen().is_empty());
}
