//! Real templates render as transformers renders them; bombs end in an error.

use super::*;
use crate::load::testdata;

fn message(role: Role, content: &str) -> Message {
    Message { role, content: content.into() }
}

fn template(source: &str) -> Result<ChatTemplate> {
    ChatTemplate::new(source.into(), "<s>".into(), "</s>".into()).map(|t| t.at(1_700_000_000))
}

fn render(source: &str) -> Result<String> {
    let messages = [message(Role::User, " Hi & <bye> "), message(Role::Assistant, "Ja")];
    template(source)?.render(&messages, GenerationPrompt::Open)
}

#[test]
fn chatml() {
    let source = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m['content'].strip() ~ '<|im_end|>\n' }}\
                  {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
    let want = "<|im_start|>user\nHi & <bye><|im_end|>\n<|im_start|>assistant\nJa<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(render(source).unwrap(), want);
}

#[test]
fn what_templates_use_works() {
    for (source, want) in [
        (
            "{{ bos_token }}{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 2 * loop.index %}{% endfor %}{{ ns.n }}",
            "<s>6",
        ),
        ("{%- for m in messages[::-1] -%}\n  {{ m.role }},\n{%- endfor -%}", "assistant,user,"),
        ("{% macro f(x, y='b') %}[{{ x }}{{ y }}]{% endmacro %}{{ f('a') }}{{ f('c', y='d') }}", "[ab][cd]"),
        ("{% if tools is none and x is not defined %}{{ messages | length }}{% endif %}", "2"),
        ("{{ {'b': [1, 2.5, true], 'a': 'é<'} | tojson }}", "{\"a\": \"é<\", \"b\": [1, 2.5, true]}"),
        ("{{ 'a b c'.split(' ')[1:] | join('-') }}{{ 'xyx'.replace('x', 'zz') }}", "b-czzyzz"),
        ("{{ strftime_now('%d %b %Y') }}", "14 Nov 2023"),
        ("{% set x %}{{ messages[0].role | upper }}!{% endset %}{{ x }}", "USER!"),
        ("{% for m in messages if m.role == 'user' %}{{ m.content | trim }}{% endfor %}", "Hi & <bye>"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='role') | list }}", "['user']"),
        ("{% set a, b = 1, 'x' %}{{ a }}{{ b }}{{ 7 // 2 }}{{ 7 % 2 == 1 }}", "1x3True"),
        ("{% if 'y' in 'xyz' and messages[0]['role'] in ['user'] %}in{% endif %}", "in"),
        ("{% for i in range(5) %}{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}", "012"),
        ("a\n{% if true %}\nb\n{% endif %}\nc\n", "a\nb\nc"),
    ] {
        let got = render(source).unwrap_or_else(|e| panic!("{source}: {e}"));
        assert_eq!(got, want, "{source}");
    }
}

#[test]
fn a_template_may_refuse() {
    let error = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert_eq!(error.exit_code(), 65);
    assert!(error.to_string().contains("roles must alternate"), "{error}");
}

#[test]
fn smollm2_template_renders() {
    let Some(path) = testdata::smollm2() else { return };
    let model = crate::load::Checkpoint::open(path.to_str().unwrap()).unwrap();
    let template = model.chat_template().unwrap().unwrap();
    let got = template.render(&[message(Role::User, "Hi")], GenerationPrompt::Open).unwrap();
    let want = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
                <|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(got, want);
}

/// Each would take gigabytes, hours or the stack without the guards.
const BOMBS: &[&str] = &[
    "{% set ns=namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% set ns=namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns=namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s]|join(ns.s) %}{% endfor %}",
    "{% set ns=namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s.join([ns.s, ns.s]) %}{% endfor %}",
    "{% set ns=namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s|replace('a', 'aa') %}{% endfor %}",
    "{% set ns=namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s.replace('a', ns.s) %}{% endfor %}",
    "{% set ns=namespace(s='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set ns.s = ns.s * 2 %}{% endfor %}",
    "{% set ns=namespace(s='a') %}{% for i in range(60) %}{% set x %}{{ ns.s }}{{ ns.s }}{% endset %}{% set ns.s = x %}{% endfor %}",
    "{% macro f(n) %}{% if n > 0 %}{% set x = f(n - 1) %}{{ x }}{{ x }}{% else %}aaaaaaaa{% endif %}{% endmacro %}{% set ns=namespace(s='') %}{% for i in range(9) %}{% set ns.s = ns.s ~ f(14) %}{% endfor %}{% for i in range(99) %}{{ ns.s }}{% endfor %}",
    "{% set ns=namespace(l=[1]) %}{% for i in range(60) %}{% set ns.l = ns.l + ns.l %}{% endfor %}{{ ns.l|list|length }}",
    "{% set ns=namespace(l=[1]) %}{% for i in range(30) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}",
    "{% set ns=namespace(l=[1]) %}{% for i in range(30) %}{% set ns.l = {'a': ns.l, 'b': ns.l} %}{% endfor %}{{ ns.l|tojson }}",
    "{% set ns=namespace(l=[1]) %}{% for i in range(5000) %}{% set ns.l = [ns.l] %}{% endfor %}",
    "{% set ns=namespace() %}{% set ns.x = ns %}{{ ns }}",
    "{% set ns=namespace() %}{% set ns.x = [ns] %}{{ ns == ns }}",
    "{% set ns=namespace(p=0) %}{% for i in range(9000) %}{% set ns.p = namespace(p=ns.p) %}{% endfor %}",
    "{% set ns=namespace(l=[]) %}{% for i in range(900) %}{% set ns.l = ns.l + [namespace()] %}{% endfor %}",
    "{% set ns=namespace(p=0) %}{% for i in range(9000) %}{% set q = ns.p %}{% macro m() %}{{ q }}{% endmacro %}{% set ns.p = m %}{% endfor %}",
    "{% set ns=namespace(l=[]) %}{% set s = messages|tojson|replace('a', 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa') %}{% for i in range(9000) %}{% set ns.l = ns.l + [s[1:]|replace('a', s)] %}{% endfor %}",
    "{{ 'a' * 99999999 }}",
    "{{ ('a') * 99999999 }}",
    "{{ [1, 2] * 99999999 }}",
    "{% set x = 99999999 %}{{ 'a' * x }}",
    "{{ 'a'|indent(2000000000, true) }}",
    "{{ messages|tojson(indent=2000000000) }}",
    "{{ '{:>2000000000}'.format(1) }}",
    "{{ '%2000000000d'|format(1) }}",
    "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "{{ range(100000000000) }}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% include '/etc/passwd' %}",
    "{{ f(*messages) }}",
    "{{ 2 ** 99999 ** 99999 }}",
];

#[test]
fn bombs_end_in_an_error() {
    for source in BOMBS {
        let started = std::time::Instant::now();
        let error = render(source).expect_err(source);
        assert_eq!(error.exit_code(), 65, "{source}: {error}");
        assert!(started.elapsed().as_secs() < 10, "{source}");
    }
}

#[test]
fn long_and_deep_templates_do_not_take_the_stack() {
    let repeat = |open: &str, n: usize, close: &str| format!("{}{}", open.repeat(n), close.repeat(n));
    for source in [
        format!("{{{{ 1{} }}}}", "+1".repeat(30_000)),
        format!("{{{{ 'a'{} }}}}", "~'a'".repeat(10_000)),
        format!("{{{{ x{} }}}}", "|trim".repeat(10_000)),
        format!("{{{{ x{} }}}}", ".y".repeat(20_000)),
        format!("{{{{ {} }}}}", repeat("(", 20_000, ")")),
        format!("{{{{ {} }}}}", repeat("[", 20_000, "]")),
        format!("{{{{ {}x }}}}", "not ".repeat(15_000)),
        format!("{{{{ {}1 }}}}", "-".repeat(30_000)),
        format!("{{% if x %}}{}{{% endif %}}", "{% elif x %}".repeat(5_000)),
        "{% if x %}".repeat(6_000),
        "a".repeat(TEMPLATE_LIMIT + 1),
    ] {
        assert!(render(&source).is_err());
    }
}

#[test]
fn only_named_namespaces_are_assigned_to() {
    assert!(render("{% set x = [namespace()] %}{% set x[0].y = 1 %}").is_err());
    assert_eq!(render("{% set x = namespace() %}{% set x.y = 1 if tools else 2 %}{{ x.y }}").unwrap(), "2");
}

#[test]
fn folders_hold_templates_in_three_ways() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let get = || ChatTemplate::from_hf_folder(folder.path()).unwrap();
    assert_eq!(get(), None);
    write(
        "tokenizer_config.json",
        r#"{"chat_template": "one{{ eos_token }}", "eos_token": {"content": "E"}}"#,
    );
    assert_eq!(get().unwrap().render(&[], GenerationPrompt::None).unwrap(), "oneE");
    write(
        "tokenizer_config.json",
        r#"{"chat_template": [{"name": "rag", "template": "x"}, {"name": "default", "template": "two"}]}"#,
    );
    assert_eq!(get().unwrap().source(), "two");
    write("chat_template.jinja", "three");
    assert_eq!(get().unwrap().source(), "three");
}
