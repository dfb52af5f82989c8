//! Reads `groupsFrom` of a `ContextPolicy`: a directory, and whose users it knows.

use super::known::{Known, KnownAttributes};
use crate::{
    doc::GroupsFrom,
    yaml::{Fields, Findings, Node, Value, read, suggest},
};

const HINT: &str = "the same id at another provider is somebody else: write \
                    `groupsFrom: {directory: NAME, users: [PROVIDER]}`";

/// A name alone, which is enough where all users are of one provider, or a name and providers.
pub(super) fn read(
    node: &Node,
    providers: &[String],
    known: &mut Known,
    findings: &mut Findings<'_>,
) -> Option<GroupsFrom> {
    if !matches!(node.value, Value::Map(_)) {
        let directory = directory(node, known, findings)?;
        if providers.len() > 1 {
            let message = format!("`{directory}` would name groups for users of every provider");
            findings.error("E013", node.span, message).hint(HINT);
        }
        return Some(GroupsFrom { directory, users: providers.to_vec() });
    }
    let mut fields = Fields::of(node, "groupsFrom", findings)?;
    let name = fields.required("directory", findings);
    let users_node = fields.required("users", findings);
    fields.finish(findings);
    let mut users = Vec::new();
    for node in read::filled_list(users_node, findings) {
        let Some(user) = read::string(node, findings) else { continue };
        if !providers.contains(&user) {
            let near = suggest(&user, providers.iter().map(String::as_str));
            let hint = near.map(|near| format!("did you mean `{near}`?"));
            let message = format!("`{user}` is not in `providers` of this gateway");
            findings.error("E005", node.span, message).maybe_hint(hint);
        }
        users.push(user);
    }
    Some(GroupsFrom { directory: directory(name?, known, findings)?, users })
}

fn directory(node: &Node, known: &mut Known, findings: &mut Findings<'_>) -> Option<String> {
    let name = read::string(node, findings)?;
    let span = |one: &KnownAttributes| one.span;
    Known::check(node, &name, "AttributeProvider", &known.attributes, span, findings);
    let declared = known.attributes.get(&name)?;
    match &declared.groups {
        Some(groups) => known.outside_groups.extend(groups.iter().cloned()),
        None if declared.facts.is_some() => {
            let message = format!("`{name}` is no directory: it knows no groups");
            findings.error("E005", node.span, message).hint("name one with `ldap`");
        }
        // One that could not be read was reported where it stands.
        None => {}
    }
    Some(name)
}
