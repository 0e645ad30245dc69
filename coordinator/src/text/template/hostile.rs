//! Templates that mean harm: each ends soon, with an error or a short text.

use super::*;
use std::time::{Duration, Instant};

/// On a machine that does much else beside.
const LIMIT: Duration = Duration::from_secs(60);
const TEXT_BYTES_MAX: usize = 16 << 20;

/// Parses and renders as the text process does, on a stack as large as there.
fn rendered(source: &str) -> Result<String, String> {
    let hello = Message::new("user", "Hello");
    let shown: String = source.chars().take(100).collect();
    let began = Instant::now();
    let work = || ChatTemplate::new(source, SpecialTokens::new()).render(&[hello]);
    let text = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(ChatTemplate::STACK_BYTES);
        thread.spawn_scoped(scope, work).unwrap().join().expect(&shown)
    });
    assert!(began.elapsed() < LIMIT, "{shown}: {:?}", began.elapsed());
    if let Ok(text) = &text {
        assert!(text.len() <= TEXT_BYTES_MAX, "{shown}: {} bytes", text.len());
    }
    text.map_err(|error| error.to_string())
}

#[test]
fn sources_that_stand_deep_in_themselves_are_refused() {
    const COUNT: usize = 25_000;
    let around = |open: &str, inner: &str, close: &str| {
        let all = [open.repeat(COUNT), inner.to_owned(), close.repeat(COUNT)].concat();
        let error = rendered(&all).unwrap_err();
        assert!(error.len() < 600, "{error}");
    };
    for (open, close) in [("(", ")"), ("[", "]"), ("{1:", "}"), ("f(", ")"), ("x[", "]"), ("-", "")]
    {
        around(&format!("{{{{ {open}"), "1", &format!("{close} }}}}"));
        let nested = format!("{{{{ {}1{} }}}}", open.repeat(COUNT), close.repeat(COUNT));
        assert!(rendered(&nested).is_err());
    }
    for link in ["not ", "1 if ", "1 + ", "1 ~ ", "1 and ", "1 < ", "2 ** ", "'%s' % "] {
        assert!(rendered(&format!("{{{{ {}1 }}}}", link.repeat(COUNT))).is_err(), "{link}");
    }
    for link in [".a", "[0]", "()", "|string", " is defined", " if 1 else 1", " 'x'"] {
        let chain = format!("{{{{ 'a'{} }}}}", link.repeat(COUNT));
        assert!(rendered(&chain).is_err() || link == " 'x'", "{link}");
    }
    for (open, close) in [
        ("{% if 1 %}", "{% endif %}"),
        ("{% for i in [1] %}", "{% endfor %}"),
        ("{% macro m() %}", "{% endmacro %}"),
        ("{% generation %}", "{% endgeneration %}"),
        ("{% set x %}", "{% endset %}"),
        ("{% filter upper %}", "{% endfilter %}"),
        ("{% call f() %}", "{% endcall %}"),
    ] {
        around(open, "", close);
        around(open, "", "");
    }
    let branches = format!("{{% if 0 %}}{}{{% endif %}}", "{% elif 0 %}".repeat(COUNT));
    assert!(rendered(&branches).unwrap_err().contains("more than 1000 times elif"));
    assert_eq!(
        rendered(&"x".repeat(2 << 20)).unwrap_err(),
        "chat_template: longer than 1048576 bytes"
    );
}

#[test]
fn values_that_stand_deep_in_each_other_are_written_or_refused() {
    let deep = "{% set ns = namespace(x=1) %}\
                {% for i in range(10000) %}{% set ns.x = [{'a': [ns.x]}] %}{% endfor %}";
    for last in ["{{ ns.x }}", "{{ ns.x|tojson }}", "{{ ns.x|string }}", "{{ ns.x|join }}"] {
        let error = rendered(&format!("{deep}{last}")).unwrap_err();
        assert!(error.ends_with("a value is nested deeper than 200"), "{error}");
    }
    let (open, close) = ("[".repeat(60), "]".repeat(60));
    let deeper = format!(
        "{{% set ns = namespace(x=1) %}}\
         {{% for i in range(1900) %}}{{% set ns.x = {open}ns.x{close} %}}{{% endfor %}}"
    );
    for last in ["", "{{ ns.x ~ '' }}", "{{ [ns.x] == [[ns.x]] }}", "{{ [ns.x, [ns.x]]|sort }}"] {
        let _ = rendered(&format!("{deeper}{last}"));
    }
    let wide = "{% set ns = namespace(x=1) %}\
                {% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}";
    for last in ["{{ ns.x }}", "{{ ns.x|tojson }}", "{{ ns.x|string }}", "{{ ns.x|join(',') }}"] {
        assert!(
            rendered(&format!("{wide}{last}")).unwrap_err().contains("takes too long"),
            "{last}"
        );
    }
}

#[test]
fn what_grows_is_paid_for_before_it_is_made() {
    for expression in [
        "'x' * 10 ** 9",
        "'x' * 10 ** 30",
        "('x' * 10 ** 6) * 10 ** 6",
        "(0,) * 10 ** 8",
        "([0] * 10 ** 8)|list|length",
        "([0] * 10 ** 8)|join('x')",
        "([0] * 10 ** 8)|tojson",
        "([0] * 10 ** 8)|string",
        "([0] * 10 ** 8).count(1)",
        "([0] * 10 ** 8).index(1)",
        "dict([(1, 2)] * 10 ** 8)",
        "([0] * 10 ** 8)|sort",
        "range(10 ** 9)|list",
        "'x'.center(10 ** 9)",
        "'x'.ljust(10 ** 10)",
        "'x'.zfill(10 ** 9)",
        "'x'|center(10 ** 9)",
        "'\\t'.expandtabs(10 ** 9)",
        "'%1000000000d'|format(1)",
        "'%.1000000000f'|format(1.5)",
        "'%*d'|format(10 ** 9, 1)",
        "'%1000000000d' % 1",
        "'{:1000000000}'.format(1)",
        "'{:.1000000000f}'.format(1.5)",
        "[1]|tojson(indent=10 ** 9)",
        "[[[1]]]|tojson(indent='x' * 10 ** 7)",
        "'a'|indent(10 ** 9, true)",
        "('a\\n' * 10 ** 5)|indent(10 ** 5)",
        "('a' * 10 ** 6)|replace('a', 'b' * 10 ** 6)",
        "('a' * 10 ** 6).replace('a', 'b' * 10 ** 6)",
        "('a' * 10 ** 6).join(['b'] * 10 ** 6)",
        "(['b'] * 10 ** 6)|join('a' * 10 ** 6)",
        "strftime_now('%c' * 10 ** 6)",
        "('<' * 10 ** 7)|e",
        "(' x' * 10 ** 6).split()",
        "('\\n' * 10 ** 7).splitlines()",
    ] {
        let _ = rendered(&format!("{{{{ {expression} }}}}")).map(|text| text.len());
    }
    let doubling = "{% set ns = namespace(x='x') %}\
                    {% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}";
    assert!(rendered(doubling).unwrap_err().contains("takes too long"));
    let error = rendered("{{ raise_exception('x' * 10 ** 6) }}").unwrap_err();
    assert!(error.len() < 600 && error.ends_with(" ..."), "{error}");
}

#[test]
fn what_calls_itself_ends() {
    for source in [
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{{ f() }}{{ f() }}{% endmacro %}{{ f() }}",
        "{% macro f() %}{% call f() %}{{ caller() }}{% endcall %}{% endmacro %}{{ f() }}",
        "{% set x = [] %}{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}",
        "{% include 'chat_template' %}",
        "{% extends 'chat_template' %}",
        "{% block b %}{{ self.b() }}{% endblock %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{% for i in range(99999) %}{{ 'a' * 10 ** 5 in 'a' * 10 ** 5 }}{% endfor %}",
    ] {
        assert!(rendered(source).is_err(), "{source}");
    }
}
