//! Filters and tests of Jinja that minijinja lacks or has in another way.

use super::arguments::by_name;
use super::{print, source, text_filters};
use minijinja::filters as builtin;
use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, State};

/// Adds the filters, tests and functions to `environment`.
pub(super) fn add(environment: &mut Environment<'_>) {
    environment.add_filter("tojson", super::json::tojson);
    environment.add_filter("string", print::str);
    environment.add_filter("join", text_filters::join);
    environment.add_filter("e", text_filters::escape);
    environment.add_filter("escape", text_filters::escape);
    environment.add_filter("trim", text_filters::trim);
    environment.add_filter("title", text_filters::title);
    environment.add_filter("center", text_filters::center);
    environment.add_filter("wordcount", text_filters::wordcount);
    environment.add_filter("truncate", text_filters::truncate);
    environment.add_filter("indent", text_filters::indent);
    environment.add_filter("default", default);
    environment.add_filter("d", default);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("sort", sort);
    environment.add_filter("dictsort", dictsort);
    environment.add_filter("attr", attr);
    environment.add_filter("pprint", print::repr);
    environment.add_filter(source::FORMAT, text_filters::format);
    environment.add_filter("striptags", minijinja_contrib::filters::striptags);
    environment.add_filter("filesizeformat", minijinja_contrib::filters::filesizeformat);
    environment.add_test("iterable", is_iterable);
    environment.add_test("sequence", is_sequence);
    environment.add_test("callable", is_callable);
    environment.add_function("cycler", |items: Rest<Value>| {
        minijinja_contrib::globals::cycler(items.to_vec())
    });
    environment.add_function("dict", dict);
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
}

fn sort(
    state: &State<'_, '_>,
    value: Value,
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let names = ["reverse", "case_sensitive", "attribute"];
    builtin::sort(state, value, by_name(&names, &positional, &named)?)
}

fn dictsort(
    state: &State<'_, '_>,
    value: &Value,
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    print::charge_items(state, value)?;
    builtin::dictsort(value, by_name(&["case_sensitive", "by", "reverse"], &positional, &named)?)
}

fn default(value: &Value, positional: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let named = by_name(&["default_value", "boolean"], &positional, &named)?;
    let other = named.get::<Option<Value>>("default_value")?.unwrap_or_else(|| Value::from(""));
    let replaces_false = named.get::<Option<Value>>("boolean")?.is_some_and(|flag| flag.is_true());
    named.assert_all_used()?;
    let is_missing = value.is_undefined() || (replaces_false && !value.is_true());
    Ok(if is_missing { other } else { value.clone() })
}

/// The filter `int`: what is not a number is 0, or what the template names instead.
fn int(
    state: &State<'_, '_>,
    value: &Value,
    positional: Rest<Value>,
    named: Kwargs,
) -> Result<Value, Error> {
    let named = by_name(&["default", "base"], &positional, &named)?;
    let default = named.get::<Option<Value>>("default")?.unwrap_or_else(|| Value::from(0));
    let base = named.get::<Option<u32>>("base")?;
    let value = value.as_str().map_or_else(|| value.clone(), |text| Value::from(text.trim()));
    builtin::int(state, &value, Some(default), base, nothing())
}

fn float(state: &State<'_, '_>, value: &Value, default: Option<Value>) -> Result<Value, Error> {
    let default = default.unwrap_or_else(|| Value::from(0.0));
    let value = value.as_str().map_or_else(|| value.clone(), |text| Value::from(text.trim()));
    builtin::float(state, &value, Some(default), nothing())
}

fn nothing() -> Kwargs {
    std::iter::empty::<(&str, Value)>().collect()
}

/// The filter `attr`: an attribute in Python's sense, which items of a mapping are not.
fn attr(value: &Value, name: &Value) -> Result<Value, Error> {
    if value.kind() == ValueKind::Map { Ok(Value::UNDEFINED) } else { builtin::attr(value, name) }
}

/// The test `iterable`: what has `__iter__` in Python. `none` has not, and an undefined value has.
fn is_iterable(value: &Value) -> bool {
    match value.kind() {
        ValueKind::None => false,
        ValueKind::Undefined => true,
        _ => value.try_iter().is_ok(),
    }
}

/// The test `sequence`: what has a length and items in Python, which strings and mappings have too.
fn is_sequence(value: &Value) -> bool {
    match value.kind() {
        ValueKind::Undefined | ValueKind::String | ValueKind::Seq | ValueKind::Map => true,
        ValueKind::Iterable => value.len().is_some(),
        _ => false,
    }
}

/// The function `dict`, which takes pairs too.
fn dict(state: &State<'_, '_>, value: Option<Value>, named: Kwargs) -> Result<Value, Error> {
    let pairs = value.as_ref().filter(|value| value.kind() != ValueKind::Map);
    let Some(pairs) = pairs else { return minijinja::functions::dict(value, named) };
    print::charge_items(state, pairs)?;
    let pair = |pair: Value| Ok((pair.get_item_by_index(0)?, pair.get_item_by_index(1)?));
    let pairs = pairs.try_iter()?.map(pair).collect::<Result<Vec<_>, Error>>()?;
    minijinja::functions::dict(Some(Value::from_pairs(pairs)), named)
}

fn is_callable(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Undefined | ValueKind::Plain)
}
