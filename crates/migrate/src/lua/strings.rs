//! `string.find`, `match`, `gmatch` and `gsub`.

use std::sync::Arc;

use mlua::{Error, Function, IntoLuaMulti, Lua, LuaString as Text, MultiValue, Result, Table, Value};

use super::{
    budget::Instructions,
    pattern::{Capture, Failed, Found, Pattern},
};

/// Most bytes that a replacement may make, whatever Lua's memory: it grows outside of it.
const MOST_BYTES: usize = 64 << 20;

/// Puts them in the place of Lua's own.
pub(super) fn replace(lua: &Lua, string: &Table, budget: &Arc<Instructions>) -> Result<()> {
    let with = |find: bool| {
        let budget = Arc::clone(budget);
        lua.create_function(move |lua, args: (Text, Text, Option<i64>, Option<Value>)| {
            search(lua, args, find, &budget)
        })
    };
    string.raw_set("find", with(true)?)?;
    string.raw_set("match", with(false)?)?;
    let own = Arc::clone(budget);
    string.raw_set(
        "gmatch",
        lua.create_function(move |lua, args: (Text, Text, Option<i64>)| every(lua, args, &own))?,
    )?;
    let own = Arc::clone(budget);
    let gsub = move |lua: &Lua, args: (Text, Text, Value, Option<i64>)| substitute(lua, args, &own);
    string.raw_set("gsub", lua.create_function(gsub)?)
}

fn error(failed: Failed) -> Error {
    match failed {
        Failed::Malformed(why) => Error::runtime(why),
        Failed::Exhausted => super::budget::exhausted(),
    }
}

/// Where a search begins, from 0; none behind the end.
fn start(init: Option<i64>, length: usize) -> Option<usize> {
    let init = init.unwrap_or(1);
    let from = if init < 0 {
        length.saturating_sub(usize::try_from(init.unsigned_abs()).unwrap_or(usize::MAX))
    } else {
        usize::try_from(init).unwrap_or(usize::MAX).saturating_sub(1)
    };
    (from <= length).then_some(from)
}

fn place(at: usize) -> Value {
    Value::Integer(i64::try_from(at).unwrap_or(i64::MAX).saturating_add(1))
}

fn captured(lua: &Lua, text: &[u8], capture: Capture) -> Result<Value> {
    Ok(match capture {
        Capture::Range(from, to) => Value::String(lua.create_string(&text[from..to])?),
        Capture::Position(at) => place(at),
    })
}

/// What was captured, or all of it where there are no captures.
fn captures(lua: &Lua, text: &[u8], (from, to, found): &Found) -> Result<Vec<Value>> {
    if found.is_empty() {
        return Ok(vec![captured(lua, text, Capture::Range(*from, *to))?]);
    }
    found.iter().map(|&capture| captured(lua, text, capture)).collect()
}

fn search(
    lua: &Lua,
    (text, pattern, init, plain): (Text, Text, Option<i64>, Option<Value>),
    find: bool,
    budget: &Instructions,
) -> Result<MultiValue> {
    let (text, pattern) = (text.as_bytes(), pattern.as_bytes());
    let Some(from) = start(init, text.len()) else { return Value::Nil.into_lua_multi(lua) };
    let special = |byte: &u8| b"^$*+?.([%-".contains(byte);
    let is_plain = plain.is_some_and(|plain| !matches!(plain, Value::Nil | Value::Boolean(false)));
    if find && (is_plain || !pattern.iter().any(special)) {
        let found = memchr::memmem::find(&text[from..], &pattern);
        return match found {
            Some(at) => {
                // The last byte, from 1: one before the first for what is empty.
                let last = i64::try_from(from + at + pattern.len()).unwrap_or(i64::MAX);
                (place(from + at), Value::Integer(last)).into_lua_multi(lua)
            }
            None => Value::Nil.into_lua_multi(lua),
        };
    }
    let pattern = Pattern::new(&pattern, true).map_err(error)?;
    let Some(found) = pattern.find(&text, from, budget).map_err(error)? else {
        return Value::Nil.into_lua_multi(lua);
    };
    if !find {
        return Ok(MultiValue::from_vec(captures(lua, &text, &found)?));
    }
    let (from, to, groups) = found;
    let mut values = vec![place(from), Value::Integer(i64::try_from(to).unwrap_or(i64::MAX))];
    for capture in groups {
        values.push(captured(lua, &text, capture)?);
    }
    Ok(MultiValue::from_vec(values))
}

fn every(
    lua: &Lua,
    (text, pattern, init): (Text, Text, Option<i64>),
    budget: &Arc<Instructions>,
) -> Result<Function> {
    let pattern = Pattern::new(&pattern.as_bytes(), false).map_err(error)?;
    let mut from = start(init, text.as_bytes().len());
    let mut last = None;
    let budget = Arc::clone(budget);
    lua.create_function_mut(move |lua, ()| {
        let bytes = text.as_bytes();
        while let Some(at) = from {
            let Some(found) = pattern.find(&bytes, at, &*budget).map_err(error)? else { break };
            // Nothing is found once more just behind what was found.
            if last == Some(found.1) {
                from = Some(found.0 + 1).filter(|&at| at <= bytes.len());
                continue;
            }
            (from, last) = (Some(found.1), Some(found.1));
            return Ok(MultiValue::from_vec(captures(lua, &bytes, &found)?));
        }
        from = None;
        Value::Nil.into_lua_multi(lua)
    })
}

fn substitute(
    lua: &Lua,
    (text, pattern, with, most): (Text, Text, Value, Option<i64>),
    budget: &Instructions,
) -> Result<(Text, i64)> {
    let bytes = text.as_bytes();
    let pattern = Pattern::new(&pattern.as_bytes(), true).map_err(error)?;
    let with = match with {
        Value::Integer(_) | Value::Number(_) => match lua.coerce_string(with)? {
            Some(text) => Value::String(text),
            None => Value::Nil,
        },
        other => other,
    };
    if !matches!(with, Value::String(_) | Value::Table(_) | Value::Function(_)) {
        return Err(Error::runtime("what replaces a match is a string, a table or a function"));
    }
    let most = most.unwrap_or(i64::MAX);
    let (mut result, mut at, mut count, mut last) = (Vec::new(), 0, 0, None);
    while count < most {
        match pattern.at(&bytes, at, budget).map_err(error)? {
            Some(found) if last != Some(found.1) => {
                count += 1;
                put(lua, &bytes, &found, &with, &mut result)?;
                (at, last) = (found.1, Some(found.1));
            }
            _ if at < bytes.len() => {
                result.push(bytes[at]);
                at += 1;
            }
            _ => break,
        }
        if result.len() > MOST_BYTES {
            return Err(Error::runtime("not enough memory"));
        }
        if pattern.is_anchored() {
            break;
        }
    }
    result.extend_from_slice(&bytes[at..]);
    Ok((lua.create_string(result)?, count))
}

/// Appends what replaces a match.
fn put(lua: &Lua, text: &[u8], found: &Found, with: &Value, result: &mut Vec<u8>) -> Result<()> {
    let groups = captures(lua, text, found)?;
    let whole = &text[found.0..found.1];
    let value = match with {
        Value::String(with) => return expand(lua, &with.as_bytes(), whole, &groups, result),
        Value::Table(table) => table.raw_get(groups[0].clone())?,
        Value::Function(function) => function.call::<Value>(MultiValue::from_vec(groups))?,
        _ => Value::Nil,
    };
    match value {
        Value::Nil | Value::Boolean(false) => result.extend_from_slice(whole),
        value => append(lua, value, result)?,
    }
    Ok(())
}

fn append(lua: &Lua, value: Value, result: &mut Vec<u8>) -> Result<()> {
    match value {
        value @ (Value::String(_) | Value::Integer(_) | Value::Number(_)) => {
            if let Some(text) = lua.coerce_string(value)? {
                result.extend_from_slice(&text.as_bytes());
            }
            Ok(())
        }
        other => {
            Err(Error::runtime(format!("what replaces a match is a {}, not a string", other.type_name())))
        }
    }
}

/// `%0` to `%9` and `%%` in what replaces a match.
fn expand(lua: &Lua, with: &[u8], whole: &[u8], groups: &[Value], result: &mut Vec<u8>) -> Result<()> {
    let mut rest = with.iter();
    while let Some(&byte) = rest.next() {
        if byte != b'%' {
            result.push(byte);
            continue;
        }
        match rest.next() {
            Some(b'%') => result.push(b'%'),
            Some(b'0') => result.extend_from_slice(whole),
            Some(digit @ b'1'..=b'9') => match groups.get(usize::from(digit - b'1')) {
                Some(group) => append(lua, group.clone(), result)?,
                None => return Err(Error::runtime("invalid capture index in what replaces a match")),
            },
            _ => return Err(Error::runtime("invalid use of '%' in what replaces a match")),
        }
    }
    Ok(())
}
