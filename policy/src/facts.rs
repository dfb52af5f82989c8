//! The device, and what validators said: truth and sentence side by side, because both follow the
//! same order of tests.
//!
//! Absence is not unknown: where no device was captured, "is it managed?" is false. What a
//! validator should have said and did not is unknown.

use std::{borrow::Cow, sync::Arc};

use serde_json::Value;

use crate::{
    decision::ResourceName,
    doc::access::{AttributeName, ClaimValue, DeviceAtom, FactTest},
    eval::young_enough,
    input::{DeviceFacts, Input, JustificationFacts},
    sentence::{Part, age, join, no_context},
    tri::Tri,
};

/// The device of the client.
pub(crate) fn device(atom: &DeviceAtom, input: &Input<'_>) -> Tri {
    let Some(device) = input.context.as_ref().and_then(|facts| facts.device) else {
        return Tri::False;
    };
    let managed = if atom.managed { Tri::of(device.managed) } else { Tri::True };
    let age = match atom.max_posture_age_s {
        None => Tri::True,
        Some(max) => young_enough(device.at, max, input.now_ms),
    };
    Tri::all([listed(&atom.sources, device.src), managed, listed(&atom.tiers, device.tier), age])
}

fn listed(wanted: &[String], given: Option<&str>) -> Tri {
    if wanted.is_empty() {
        return Tri::True;
    }
    Tri::of(given.map(|given| wanted.iter().any(|own| own == given)))
}

/// The same in words.
pub(crate) fn device_sentence(atom: &DeviceAtom, input: &Input<'_>) -> String {
    let Some(device) = input.context.as_ref().and_then(|facts| facts.device) else {
        return match no_context(input) {
            "" => "no device was captured".to_owned(),
            why => format!("no device: {why}"),
        };
    };
    let mut parts = vec![(true, format!("device {}", device.id.unwrap_or("without a name")))];
    parts.extend(list_part(&atom.sources, device.src, "learned from", "where it was learned"));
    if atom.managed {
        let (good, text) = match device.managed {
            Some(true) => (true, "managed"),
            Some(false) => (false, "not managed"),
            None => (false, "nobody says whether it is managed"),
        };
        parts.push((good, text.to_owned()));
    }
    parts.extend(list_part(&atom.tiers, device.tier, "tier", "its tier"));
    parts.extend(posture(atom, &device, input));
    join(parts)
}

fn list_part(wanted: &[String], given: Option<&str>, what: &str, unknown: &str) -> Option<Part> {
    if wanted.is_empty() {
        return None;
    }
    Some(match given {
        None => (false, format!("the token does not say {unknown}")),
        Some(given) if wanted.iter().any(|own| own == given) => (true, format!("{what} {given}")),
        Some(given) => (false, format!("{what} {given}, needs {}", wanted.join(" or "))),
    })
}

fn posture(atom: &DeviceAtom, device: &DeviceFacts<'_>, input: &Input<'_>) -> Option<Part> {
    let max = atom.max_posture_age_s?;
    let unknown = "the token does not say when its posture was seen";
    Some(age("posture seen", unknown, device.at, max, input))
}

/// What a validator said of a justification, against this request and its resource.
pub(crate) fn fact(
    name: &str,
    test: &FactTest,
    given: &JustificationFacts<'_>,
    resource: Option<&Arc<ResourceName>>,
    input: &Input<'_>,
) -> Tri {
    let Some(value) = given.facts.and_then(|facts| facts.get(name)).filter(|_| given.checked)
    else {
        return Tri::Unknown;
    };
    match test {
        FactTest::AnyOf(any_of) => match value {
            Value::String(own) => Tri::from(
                any_of.iter().any(|one| matches!(one, ClaimValue::Text(text) if text == own)),
            ),
            Value::Bool(own) => Tri::from(any_of.contains(&ClaimValue::Bool(*own))),
            Value::Number(own) => {
                Tri::of(own.as_i64().map(|own| any_of.contains(&ClaimValue::Int(own))))
            }
            Value::Null | Value::Array(_) | Value::Object(_) => Tri::Unknown,
        },
        FactTest::Equals(name) => {
            let wanted = attribute(*name, resource, input);
            Tri::of(wanted.zip(value.as_str()).map(|(wanted, own)| wanted == own))
        }
    }
}

/// The same in words.
pub(crate) fn fact_sentence(
    name: &str,
    test: &FactTest,
    given: &JustificationFacts<'_>,
    resource: Option<&Arc<ResourceName>>,
    input: &Input<'_>,
) -> Part {
    let good = fact(name, test, given, resource, input) == Tri::True;
    let Some(value) = given.facts.and_then(|facts| facts.get(name)) else {
        return (false, format!("nobody said its {name}"));
    };
    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let needs = match test {
        _ if good => String::new(),
        FactTest::AnyOf(any_of) => {
            let wanted: Vec<_> = any_of.iter().map(ToString::to_string).collect();
            format!(", needs {}", wanted.join(" or "))
        }
        FactTest::Equals(wanted) => match attribute(*wanted, resource, input) {
            Some(text) => format!(", needs {text} ({})", wanted.as_str()),
            None => format!(", and {} is not known", wanted.as_str()),
        },
    };
    (good, format!("{name} {value}{needs}"))
}

/// An attribute of this request, if it is known.
fn attribute<'i>(
    name: AttributeName,
    resource: Option<&'i Arc<ResourceName>>,
    input: &'i Input<'_>,
) -> Option<Cow<'i, str>> {
    let context = input.context.as_ref();
    match name {
        AttributeName::ResourceOwner => {
            let (template, param) = resource?.owner.as_ref()?;
            template.capture(param, input.request.as_ref()?.path)
        }
        AttributeName::UserId => Some(context?.user.as_ref()?.id.into()),
        AttributeName::UserAccount => Some(context?.user.as_ref()?.account?.into()),
        AttributeName::DeviceId => Some(context?.device.as_ref()?.id?.into()),
    }
}
