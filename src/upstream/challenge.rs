//! The `WWW-Authenticate` grammar (RFC 9110 section 11.6.1), read as liberally as registries write it. It decides which of the
//! offered schemes is taken, and never whether what it says may be trusted: that is the realm's module.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// What a registry demands with a 401.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// A token of the distribution specification's token server. Each part may be missing; an empty one counts as missing.
    Bearer { realm: Option<String>, service: Option<String>, scope: Option<String> },
    /// User and password (RFC 7617).
    Basic,
}

/// One challenge. Scheme and parameter names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

/// What the challenges of an answer demand: Bearer rather than Basic, a Bearer with a realm rather than one without, the first of
/// equals. `None` if there is none of either.
pub(super) fn demand(headers: &HeaderMap) -> Option<Demand> {
    let challenges: Vec<_> =
        headers.get_all(WWW_AUTHENTICATE).iter().flat_map(|value| parse(&String::from_utf8_lossy(value.as_bytes()))).collect();
    let bearers = || challenges.iter().filter(|challenge| challenge.scheme == "bearer");
    if let Some(bearer) = bearers().find(|bearer| bearer.parameter("realm").is_some()).or(bearers().next()) {
        let [realm, service, scope] = ["realm", "service", "scope"].map(|name| bearer.parameter(name));
        return Some(Demand::Bearer { realm, service, scope });
    }
    challenges.iter().any(|challenge| challenge.scheme == "basic").then_some(Demand::Basic)
}

impl Challenge {
    fn parameter(&self, name: &str) -> Option<String> {
        let (_, value) = self.parameters.iter().find(|(key, value)| key == name && !value.is_empty())?;
        Some(value.clone())
    }
}

/// The challenges of one header line. What does not fit the grammar is left out, up to the next comma.
fn parse(line: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    let mut rest = Cursor(line);
    loop {
        rest.skip(|c| is_space(c) || c == ',');
        if rest.0.is_empty() {
            return challenges;
        }
        let word = rest.take(is_token).to_ascii_lowercase();
        if word.is_empty() {
            rest.skip_item();
            continue;
        }
        let after_word = rest.0;
        rest.skip(is_space);
        if rest.eat('=') {
            rest.skip(is_space);
            let value = rest.value();
            if let Some(challenge) = challenges.last_mut() {
                challenge.parameters.push((word, value));
            }
        } else {
            challenges.push(Challenge { scheme: word, parameters: Vec::new() });
            if rest.0.len() < after_word.len() {
                rest.skip_token68();
            }
        }
    }
}

/// What is left to read of a line.
#[derive(Clone, Copy)]
struct Cursor<'a>(&'a str);

impl<'a> Cursor<'a> {
    fn take(&mut self, wanted: impl Fn(char) -> bool) -> &'a str {
        let end = self.0.find(|c| !wanted(c)).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(end);
        self.0 = rest;
        taken
    }

    fn skip(&mut self, unwanted: impl Fn(char) -> bool) {
        self.take(unwanted);
    }

    fn eat(&mut self, expected: char) -> bool {
        match self.0.strip_prefix(expected) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    /// A parameter's value. Unquoted it should be a token, but registries leave URLs unquoted too: it goes on to the next space or comma.
    fn value(&mut self) -> String {
        if self.eat('"') { self.quoted() } else { self.take(|c| !is_space(c) && c != ',').to_owned() }
    }

    /// The rest of a quoted string whose opening quote has been read (RFC 9110 section 5.6.4). One that is never closed ends
    /// with the line.
    fn quoted(&mut self) -> String {
        let mut text = String::new();
        let mut chars = self.0.chars();
        while let Some(c) = chars.next() {
            match c {
                '"' => break,
                '\\' => text.extend(chars.next()),
                c => text.push(c),
            }
        }
        self.0 = chars.as_str();
        text
    }

    /// Steps over something that is neither a scheme nor a parameter.
    fn skip_item(&mut self) {
        if self.eat('"') {
            self.quoted();
        } else {
            self.skip(|c| c != ',' && c != '"');
        }
    }

    /// Steps over the credentials-like text that some schemes have in place of parameters (`Negotiate YII=`), if there is one.
    fn skip_token68(&mut self) {
        let mut ahead = *self;
        let is_token68 = |c: char| c.is_ascii_alphanumeric() || "-._~+/".contains(c);
        if ahead.take(is_token68).is_empty() {
            return;
        }
        ahead.skip(|c| c == '=');
        ahead.skip(is_space);
        if ahead.0.is_empty() || ahead.0.starts_with(',') {
            *self = ahead;
        }
    }
}

fn is_space(c: char) -> bool {
    c == ' ' || c == '\t'
}

/// `tchar` of RFC 9110 section 5.6.2.
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reqwest::header::HeaderValue;

    use super::*;

    fn demand_of(lines: &[&str]) -> Option<Demand> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_bytes(line.as_bytes()).unwrap());
        }
        demand(&headers)
    }

    fn bearer(realm: &str, service: &str, scope: &str) -> Option<Demand> {
        let part = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Some(Demand::Bearer { realm: part(realm), service: part(service), scope: part(scope) })
    }

    #[test]
    fn the_challenges_of_real_registries() {
        let scope = "repository:library/alpine:pull";
        for (lines, expected) in [
            (
                vec![
                    r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/alpine:pull""#,
                ],
                bearer("https://auth.docker.io/token", "registry.docker.io", scope),
            ),
            (vec!["Bearer realm=https://gcr.io/v2/token,service=gcr.io"], bearer("https://gcr.io/v2/token", "gcr.io", "")),
            (
                vec![r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#],
                bearer("https://public.ecr.aws/token/", "public.ecr.aws", "aws"),
            ),
            (vec![r#"BASIC realm="Sonatype Nexus Repository Manager""#], Some(Demand::Basic)),
            (
                vec![r#"Basic realm="https://a.dkr.ecr.eu-west-1.amazonaws.com/",service="ecr.amazonaws.com""#],
                Some(Demand::Basic),
            ),
            (vec![r#"Bearer realm="https://nvcr.io/proxy_auth",scope="""#], bearer("https://nvcr.io/proxy_auth", "", "")),
        ] {
            assert_eq!(demand_of(&lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn everything_the_grammar_allows_and_some_that_it_does_not() {
        let r = "https://a.example/t";
        for (lines, expected) in [
            (vec![], None),
            (vec![""], None),
            (vec![",, ,"], None),
            (vec!["Negotiate YII=="], None),
            (vec!["Digest realm=\"x\", nonce=\"y\""], None),
            (vec!["Basic"], Some(Demand::Basic)),
            (vec!["Bearer"], bearer("", "", "")),
            (vec!["bEaReR ReAlM=\"https://a.example/t\""], bearer(r, "", "")),
            // Several header lines, several challenges in one line, the better one last.
            (vec!["Basic realm=\"b\"", "Bearer realm=\"https://a.example/t\""], bearer(r, "", "")),
            (vec!["Basic realm=\"b\", Bearer realm=\"https://a.example/t\",service=\"s\""], bearer(r, "s", "")),
            (vec!["Basic, Bearer realm=\"https://a.example/t\""], bearer(r, "", "")),
            (vec!["Negotiate YII=, Bearer realm=\"https://a.example/t\""], bearer(r, "", "")),
            (vec!["Bearer service=\"x\", Bearer realm=\"https://a.example/t\""], bearer(r, "", "")),
            // Commas, escapes and schemes within quotes.
            (
                vec![r#"Bearer realm="https://a.example/t",scope="repository:a:pull,push""#],
                bearer(r, "", "repository:a:pull,push"),
            ),
            (
                vec![r#"Bearer realm="https://a.example/t",service="a\"b\\c, Basic realm=x""#],
                bearer(r, "a\"b\\c, Basic realm=x", ""),
            ),
            // Spaces around '=' and ',', tabs, doubled commas.
            (vec!["Bearer\trealm = \"https://a.example/t\" ,, service=s"], bearer(r, "s", "")),
            // Broken: no closing quote, a stray quote, a parameter before any scheme, the first of two realms.
            (vec!["Bearer realm=\"https://a.example/t"], bearer(r, "", "")),
            (vec!["\"junk, Basic\", Bearer realm=\"https://a.example/t\""], bearer(r, "", "")),
            (vec!["realm=\"x\", Bearer realm=\"https://a.example/t\""], bearer(r, "", "")),
            (vec!["Bearer realm=\"https://a.example/t\", realm=\"https://evil.example/\""], bearer(r, "", "")),
            (vec!["Bearer realm=\"\", service=\"s\""], bearer("", "s", "")),
        ] {
            assert_eq!(demand_of(&lines), expected, "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_makes_the_parser_stumble(line in "[ -~\\t\u{e9}]{0,80}") {
            for challenge in parse(&line) {
                prop_assert!(challenge.scheme.chars().all(is_token) && !challenge.scheme.is_empty());
            }
        }

        #[test]
        fn grammar_shaped_noise_does_not_either(words in prop::collection::vec(
            prop::sample::select(vec!["Bearer", "Basic", " ", ",", "=", "\"", "\\", "realm", "scope", "x", "abc==", "\t"]), 0..40)) {
            parse(&words.concat());
        }

        #[test]
        fn a_quoted_value_comes_back_whatever_it_is(realm in "[ -~]{1,40}", service in "[ -~]{1,40}") {
            let quote = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""));
            let line = format!("Basic realm=\"x\", Bearer realm={} , service={}", quote(&realm), quote(&service));
            prop_assert_eq!(demand_of(&[&line]), bearer(&realm, &service, ""));
        }
    }
}
