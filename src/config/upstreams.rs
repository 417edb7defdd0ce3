//! All upstreams together: the declared and the built-in ones, no name claimed twice, one of them the default. What a single
//! upstream's table says is not looked at here.

use std::collections::{BTreeMap, BTreeSet};

use super::built_in;
use super::error::{Place, Problem};
use super::settings::Settings;
use super::upstream::{self, Draft, Outcome, UpstreamConfig};
use crate::oci::UpstreamName;

/// Every upstream there is, ordered by name. What is wrong is noted; the result is then of no use.
pub(super) fn build(settings: &mut Settings) -> Vec<UpstreamConfig> {
    let declared = settings.declared.clone();
    let names: BTreeSet<UpstreamName> = declared.keys().cloned().chain(built_in::names()).collect();
    let mut drafts = Vec::new();
    let mut usual_is_off = None;
    for name in names {
        let place = declared.get(&name);
        let is_usual_default = name.as_str() == built_in::DEFAULT;
        match upstream::read(name, place, settings) {
            Outcome::Drafted(draft) => drafts.push(*draft),
            Outcome::Disabled(place) if is_usual_default => usual_is_off = Some(place),
            Outcome::Disabled(_) | Outcome::Unusable => {}
        }
    }
    check_names(&drafts, &declared, settings);
    check_hosts(&drafts, settings);
    choose_default(&mut drafts, usual_is_off, settings);
    drafts.into_iter().map(|draft| draft.config).collect()
}

/// A name means one upstream, be it its own or an alias.
fn check_names(drafts: &[Draft], declared: &BTreeMap<UpstreamName, Place>, settings: &mut Settings) {
    let mut claims: Vec<(&UpstreamName, &UpstreamName, Option<&Place>)> = Vec::new();
    for draft in drafts {
        let owner = &draft.config.name;
        // The name of a built-in upstream is its own even where a table sets some of its keys.
        let place = declared.get(owner).filter(|_| built_in::find(owner).is_none());
        claims.push((owner, owner, place));
        claims.extend(draft.config.aliases.iter().zip(&draft.alias_places).map(|(alias, place)| (alias, owner, place.as_ref())));
    }
    // Whoever is first keeps the name: what is built in, then by place.
    claims.sort_by_key(|(.., place)| *place);
    let mut owners: BTreeMap<&UpstreamName, (&UpstreamName, bool)> = BTreeMap::new();
    for (claimed, owner, place) in claims {
        let (first, built_in) = *owners.entry(claimed).or_insert((owner, place.is_none()));
        if let Some(place) = place.filter(|_| first != owner) {
            let (claimed, owner) = (claimed.to_string(), first.to_string());
            let problem =
                if built_in { Problem::ClaimedByBuiltIn { claimed, owner } } else { Problem::ClaimedTwice { claimed, owner } };
            settings.note(place.clone(), problem);
        }
    }
}

fn check_hosts(drafts: &[Draft], settings: &mut Settings) {
    let mut claims: Vec<(&str, &UpstreamName, &Place)> = Vec::new();
    for draft in drafts {
        let hosts = draft.config.hosts.iter().zip(&draft.host_places);
        claims.extend(hosts.map(|(host, place)| (host.as_str(), &draft.config.name, place)));
    }
    claims.sort_by_key(|(.., place)| *place);
    let mut owners = BTreeMap::new();
    for (host, owner, place) in claims {
        let first = *owners.entry(host).or_insert(owner);
        if first != owner {
            let problem = Problem::ClaimedTwice { claimed: host.to_owned(), owner: first.to_string() };
            settings.note(place.clone(), problem);
        }
    }
}

/// The one that says so, or else docker.io, unless it says that it is not or is disabled (then `usual_is_off` is where).
fn choose_default(drafts: &mut [Draft], usual_is_off: Option<Place>, settings: &mut Settings) {
    let is_usual = |draft: &Draft| draft.config.name.as_str() == built_in::DEFAULT;
    let says = |draft: &Draft, wanted: bool| {
        draft.says_default.as_ref().filter(|said| said.value == wanted).map(|said| said.place.clone())
    };
    let mut wanted: Vec<(Place, usize)> =
        drafts.iter().enumerate().filter_map(|(index, draft)| Some((says(draft, true)?, index))).collect();
    // Whoever stands first keeps it.
    wanted.sort();
    let mut wanted = wanted.into_iter();
    let chosen = match wanted.next() {
        Some((_, index)) => index,
        None => {
            let refused =
                usual_is_off.or_else(|| drafts.iter().find(|draft| is_usual(draft)).and_then(|draft| says(draft, false)));
            match (refused, drafts.iter().position(is_usual)) {
                (Some(place), _) => return settings.note(place, Problem::NoDefault),
                (None, Some(index)) => index,
                (None, None) => unreachable!("{} has a usual URL, so that it is either drafted or disabled", built_in::DEFAULT),
            }
        }
    };
    for (place, _) in wanted {
        settings.note(place, Problem::SecondDefault(drafts[chosen].config.name.to_string()));
    }
    drafts[chosen].config.default = true;
}
