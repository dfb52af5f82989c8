//! `chain`: the way a request came, from the workload where it entered to the caller.
//!
//! Who held the token is what custody proved, never what a record merely says. Without custody
//! the way is not known, which is unknown and not "short".

use countersign_workload_id::WorkloadId;

use crate::{
    doc::access::ChainAtom,
    input::{ContextFacts, Input},
    sentence::{join, no_context, workload},
    tri::Tri,
};

pub(crate) fn eval(atom: &ChainAtom, input: &Input<'_>) -> Tri {
    let Some(facts) = &input.context else { return Tri::False };
    let of_way = |test: bool| if facts.custody { Tri::from(test) } else { Tri::Unknown };
    let origin = Tri::from(atom.origin.as_ref().is_none_or(|origin| origin == facts.entry));
    let through = match atom.through.is_empty() {
        true => Tri::True,
        false => of_way(atom.through.iter().all(|wanted| facts.hops.contains(wanted))),
    };
    let hops = match atom.max_hops {
        None => Tri::True,
        Some(max) => of_way(facts.hops.len() <= max),
    };
    Tri::all([origin, Tri::from(!atom.custody || facts.custody), through, hops])
}

pub(crate) fn sentence(atom: &ChainAtom, input: &Input<'_>) -> String {
    let Some(facts) = &input.context else { return no_context(input).to_owned() };
    let mut parts = Vec::new();
    if let Some(origin) = &atom.origin {
        let good = origin == facts.entry;
        let needs = if good { String::new() } else { format!(", not at {}", workload(origin)) };
        parts.push((good, format!("entered at {}{needs}", workload(facts.entry))));
    }
    if atom.custody {
        let text = if facts.custody { "custody is proven" } else { "custody is not proven" };
        parts.push((facts.custody, text.to_owned()));
    }
    if !atom.through.is_empty() {
        let lacking: Vec<String> =
            atom.through.iter().filter(|id| !facts.hops.contains(id)).map(workload).collect();
        let lacks = match lacking.is_empty() || !facts.custody {
            true => String::new(),
            false => format!(", not through {}", lacking.join(", ")),
        };
        parts.push((lacking.is_empty() && facts.custody, format!("{}{lacks}", way(facts))));
    }
    if let Some(max) = atom.max_hops {
        let good = facts.custody && facts.hops.len() <= max;
        parts.push((good, format!("{} (at most {max} hops)", way(facts))));
    }
    join(parts)
}

fn way(facts: &ContextFacts<'_>) -> String {
    if !facts.custody {
        return "custody is off: nobody can say which way it came".to_owned();
    }
    if facts.hops.is_empty() {
        return "came straight from the issuer".to_owned();
    }
    let names: Vec<String> = facts.hops.iter().map(|id: &WorkloadId| workload(id)).collect();
    format!("came over {}", names.join(", "))
}
