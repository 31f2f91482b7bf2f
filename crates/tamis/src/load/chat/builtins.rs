//! The functions, filters, tests and methods that chat templates may use. Those that
//! can make much out of little are replaced by forms that charge before they work.

use std::sync::Arc;
use std::time::Duration;

use minijinja::value::{Kwargs, Rest, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value, filters, functions, tests};
use minijinja_contrib::pycompat;
use serde::Serialize;

use super::budget::{Budget, refused};
use super::date::strftime;
use super::program::{CHARGE, CHARGE_DATA, MULTIPLY};

/// Instructions for any template and for each message.
const FUEL: u64 = 100_000;
const FUEL_PER_MESSAGE: u64 = 10_000;
/// Deepest calls of macros, in the engine's units.
const RECURSION: usize = 64;
/// Widest indent.
const INDENT: usize = 16;

/// An environment for one rendering.
pub(super) fn environment(budget: &Arc<Budget>, now: Duration, messages: usize) -> Environment<'static> {
    let mut env = Environment::empty();
    env.set_fuel(Some(FUEL + FUEL_PER_MESSAGE.saturating_mul(messages as u64)));
    env.set_recursion_limit(RECURSION);
    env.set_debug(false);
    let b = budget.clone();
    env.set_formatter(move |out, state, value| {
        b.charge(value)?;
        minijinja::escape_formatter(out, state, value)
    });
    let b = budget.clone();
    env.set_unknown_method_callback(move |state, value, method, args| {
        method_call(&b, state, value, method, args)
    });
    guards(&mut env, budget);
    template_functions(&mut env, now);
    plain_filters(&mut env);
    charged_filters(&mut env, budget);
    template_tests(&mut env);
    env
}

fn guards(env: &mut Environment, budget: &Arc<Budget>) {
    let b = budget.clone();
    env.add_function(CHARGE, move |value: Value| b.charge(&value).map(|()| value));
    let b = budget.clone();
    env.add_function(CHARGE_DATA, move |value: Value| b.charge_data(&value).map(|()| value));
    env.add_function(MULTIPLY, |a: Value, b: Value| {
        if a.kind() != ValueKind::Number || b.kind() != ValueKind::Number {
            return Err(refused("only numbers can be multiplied"));
        }
        if let (Some(a), Some(b)) = (a.as_i64(), b.as_i64()) {
            return a.checked_mul(b).map(Value::from).ok_or_else(|| refused("the product is too large"));
        }
        Ok(Value::from(f64::try_from(a)? * f64::try_from(b)?))
    });
}

fn template_functions(env: &mut Environment, now: Duration) {
    env.add_function("namespace", functions::namespace);
    env.add_function("range", functions::range);
    env.add_function("dict", functions::dict);
    env.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, format!("the template refuses: {message}")))
    });
    env.add_function("strftime_now", move |format: String| strftime(&format, now.as_secs()));
}

fn plain_filters(env: &mut Environment) {
    env.add_filter("trim", filters::trim);
    env.add_filter("lower", filters::lower);
    env.add_filter("upper", filters::upper);
    env.add_filter("title", filters::title);
    env.add_filter("capitalize", filters::capitalize);
    env.add_filter("length", filters::length);
    env.add_filter("count", filters::length);
    env.add_filter("first", filters::first);
    env.add_filter("last", filters::last);
    env.add_filter("default", filters::default);
    env.add_filter("d", filters::default);
    env.add_filter("string", filters::string);
    env.add_filter("safe", filters::safe);
    env.add_filter("int", filters::int);
    env.add_filter("float", filters::float);
    env.add_filter("abs", filters::abs);
    env.add_filter("bool", filters::bool);
    env.add_filter("list", filters::list);
    env.add_filter("items", filters::items);
    env.add_filter("dictsort", filters::dictsort);
    env.add_filter("reverse", filters::reverse);
    env.add_filter("sort", filters::sort);
    env.add_filter("unique", filters::unique);
    env.add_filter("min", filters::min);
    env.add_filter("max", filters::max);
    env.add_filter("select", filters::select);
    env.add_filter("reject", filters::reject);
    env.add_filter("selectattr", filters::selectattr);
    env.add_filter("rejectattr", filters::rejectattr);
    env.add_filter("map", filters::map);
    env.add_filter("split", filters::split);
}

fn charged_filters(env: &mut Environment, budget: &Arc<Budget>) {
    let b = budget.clone();
    env.add_filter("replace", move |state: &mut State, text: String, from: String, to: String| {
        charge_replace(&b, &text, &from, &to)?;
        let (text, from, to) = (Value::from(text), Value::from(from), Value::from(to));
        method(state, &text, "replace", &[from, to])
    });
    let b = budget.clone();
    env.add_filter("join", move |items: Value, joiner: Option<String>, kwargs: Kwargs| {
        kwargs.assert_all_used()?;
        join(&b, &joiner.unwrap_or_default(), &items)
    });
    let b = budget.clone();
    env.add_filter(
        "indent",
        move |text: String, width: Option<usize>, first: Option<bool>, kwargs: Kwargs| {
            let width = width.or(kwargs.get("width")?).unwrap_or(4);
            let first = first.or(kwargs.get("first")?).unwrap_or(false);
            kwargs.assert_all_used()?;
            indent(&b, &text, width, first)
        },
    );
    let b = budget.clone();
    env.add_filter("tojson", move |value: Value, kwargs: Kwargs| {
        let width: Option<usize> = kwargs.get("indent")?;
        // Python's other switches change nothing for the text that is written here.
        let _: (Option<bool>, Option<bool>) = (kwargs.get("ensure_ascii")?, kwargs.get("sort_keys")?);
        kwargs.assert_all_used()?;
        tojson(&b, &value, width)
    });
}

fn template_tests(env: &mut Environment) {
    env.add_test("defined", tests::is_defined);
    env.add_test("undefined", tests::is_undefined);
    env.add_test("none", tests::is_none);
    env.add_test("string", tests::is_string);
    env.add_test("mapping", tests::is_mapping);
    env.add_test("sequence", tests::is_sequence);
    env.add_test("iterable", tests::is_iterable);
    env.add_test("number", tests::is_number);
    env.add_test("integer", tests::is_integer);
    env.add_test("float", tests::is_float);
    env.add_test("boolean", tests::is_boolean);
    env.add_test("true", tests::is_true);
    env.add_test("false", tests::is_false);
    env.add_test("odd", tests::is_odd);
    env.add_test("even", tests::is_even);
    env.add_test("divisibleby", tests::is_divisibleby);
    for name in ["eq", "equalto", "=="] {
        env.add_test(name, tests::is_eq);
    }
    for name in ["ne", "!="] {
        env.add_test(name, tests::is_ne);
    }
    env.add_test("in", tests::is_in);
}

/// Python's methods of strings, lists and dictionaries.
fn method_call(
    budget: &Budget,
    state: &mut State,
    value: &Value,
    name: &str,
    args: &[Value],
) -> Result<Value, Error> {
    match (name, value.as_str()) {
        ("join", Some(joiner)) => {
            let (items,): (Value,) = from_args(args)?;
            join(budget, joiner, &items)
        }
        ("replace", Some(text)) => {
            let (from, to, _): (String, String, Rest<Value>) = from_args(args)?;
            charge_replace(budget, text, &from, &to)?;
            method(state, value, name, args)
        }
        ("format", _) => Err(refused("the method format is not supported in chat templates")),
        _ => method(state, value, name, args),
    }
}

fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    pycompat::unknown_method_callback(state, value, name, args)
}

fn charge_replace(budget: &Budget, text: &str, from: &str, to: &str) -> Result<(), Error> {
    let found = text.matches(from).count() as u64;
    budget.take(text.len() as u64 + found * to.len() as u64)
}

fn join(budget: &Budget, joiner: &str, items: &Value) -> Result<Value, Error> {
    let mut text = String::new();
    for (i, item) in items.try_iter()?.enumerate() {
        budget.charge(&item)?;
        budget.take(joiner.len() as u64)?;
        if i > 0 {
            text.push_str(joiner);
        }
        text.push_str(&item.to_string());
    }
    Ok(Value::from(text))
}

fn indent(budget: &Budget, text: &str, width: usize, first: bool) -> Result<Value, Error> {
    if width > INDENT {
        return Err(refused("the indent is too wide"));
    }
    let lines = text.split('\n').count() as u64;
    budget.take(text.len() as u64 + lines * width as u64)?;
    let pad = " ".repeat(width);
    let line = |(i, line): (usize, &str)| match line.is_empty() || (i == 0 && !first) {
        true => line.to_string(),
        false => format!("{pad}{line}"),
    };
    Ok(Value::from(text.split('\n').enumerate().map(line).collect::<Vec<_>>().join("\n")))
}

/// JSON as Python writes it: `, ` and `: ` between, nothing escaped that need not be.
fn tojson(budget: &Budget, value: &Value, width: Option<usize>) -> Result<Value, Error> {
    budget.charge(value)?;
    if width.is_some_and(|w| w > INDENT) {
        return Err(refused("the indent is too wide"));
    }
    let pad = " ".repeat(width.unwrap_or(0));
    let mut out = Vec::new();
    let json = json(value)?;
    let written = match width {
        Some(_) => {
            let style = serde_json::ser::PrettyFormatter::with_indent(pad.as_bytes());
            json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, style))
        }
        None => json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, OneLine)),
    };
    written.map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))?;
    Ok(Value::from(String::from_utf8_lossy(&out).into_owned()))
}

/// Plain data as JSON. It has been charged, so it is not deep.
fn json(value: &Value) -> Result<serde_json::Value, Error> {
    use serde_json::Value as Json;
    Ok(match value.kind() {
        ValueKind::None | ValueKind::Undefined => Json::Null,
        ValueKind::Bool => Json::Bool(value.is_true()),
        ValueKind::String => Json::from(value.as_str().unwrap_or_default()),
        ValueKind::Number => match value.as_i64() {
            Some(n) if value.is_integer() => Json::from(n),
            _ => Json::from(f64::try_from(value.clone())?),
        },
        ValueKind::Seq | ValueKind::Iterable => {
            value.try_iter()?.map(|v| json(&v)).collect::<Result<_, _>>()?
        }
        ValueKind::Map => {
            let pair = |key: Value| Ok::<_, Error>((key.to_string(), json(&value.get_item(&key)?)?));
            Json::Object(value.try_iter()?.map(pair).collect::<Result<_, _>>()?)
        }
        _ => return Err(refused("only plain data can be written as JSON")),
    })
}

/// Python's `json.dumps` without an indent.
struct OneLine;

impl serde_json::ser::Formatter for OneLine {
    fn begin_array_value<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }
    fn begin_object_key<W: ?Sized + std::io::Write>(
        &mut self,
        out: &mut W,
        first: bool,
    ) -> std::io::Result<()> {
        if first { Ok(()) } else { out.write_all(b", ") }
    }
    fn begin_object_value<W: ?Sized + std::io::Write>(&mut self, out: &mut W) -> std::io::Result<()> {
        out.write_all(b": ")
    }
}
