//! Who may read what: challenges, tokens and passwords (RFC 6750, RFC 7617, distribution's token specification).
//! Says yes, or with which answer no; it never looks at content.

use crate::config::{Auth, Config};
use crate::http::{Reply, Request};
use crate::listener::Listener;
use crate::state::{State, client_address};

/// A client that was let in.
#[derive(Clone, Debug)]
pub(super) struct Access {
    /// What its requests are counted under: its user name, or its address.
    pub(super) identity: String,
}

/// Why a token does not do, in the words of the challenge's `error`.
#[derive(Clone, Copy)]
enum TokenProblem {
    Missing,
    Invalid,
    InsufficientScope,
}

impl TokenProblem {
    fn parameter(self) -> &'static str {
        match self {
            TokenProblem::Missing => "",
            TokenProblem::Invalid => ",error=\"invalid_token\"",
            TokenProblem::InsufficientScope => ",error=\"insufficient_scope\"",
        }
    }
}

/// Lets a request for this repository in (`None`: for none), or says what to answer instead.
pub(super) async fn check(state: &State, request: &Request, repository: Option<&str>) -> Result<Access, Box<Reply>> {
    let config = state.config();
    match config.auth {
        Auth::None => Ok(access(request, None)),
        Auth::Basic => basic(&config, request, repository),
        Auth::Bearer => bearer(state, &config, request, repository),
    }
}

fn access(request: &Request, user: Option<String>) -> Access {
    Access { identity: user.unwrap_or_else(|| client_address(request.peer)) }
}

fn basic(config: &Config, request: &Request, repository: Option<&str>) -> Result<Access, Box<Reply>> {
    let right = request.basic_credential().filter(|(user, password)| config.password_is_right(user, password));
    let Some((user, _)) = right else {
        let challenge = format!("Basic realm=\"{}\"", config.service);
        return Err(challenged(config, challenge));
    };
    match repository {
        Some(name) if !config.may_read(Some(&user), name) => {
            let message = "requested access to the resource is denied";
            Err(Box::new(Reply::error(403, "DENIED", message)))
        }
        _ => Ok(access(request, Some(user))),
    }
}

fn bearer(state: &State, config: &Config, request: &Request, repository: Option<&str>) -> Result<Access, Box<Reply>> {
    let problem = match request.bearer_token() {
        None => TokenProblem::Missing,
        Some(token) => match state.tokens.look_up(token) {
            None => TokenProblem::Invalid,
            Some(grant) if repository.is_none_or(|name| grant.may_read(name)) => {
                return Ok(access(request, grant.user));
            }
            Some(_) => TokenProblem::InsufficientScope,
        },
    };
    let realm = state.url(Listener::Token);
    let scope = repository.map(|name| format!(",scope=\"repository:{name}:pull\"")).unwrap_or_default();
    let challenge = format!("Bearer realm=\"{realm}/token\",service=\"{}\"{scope}{}", config.service, problem.parameter(),);
    Err(challenged(config, challenge))
}

/// A 401 with this challenge, or with those that are configured in its place.
fn challenged(config: &Config, challenge: String) -> Box<Reply> {
    let mut reply = Reply::error(401, "UNAUTHORIZED", "authentication required");
    let lines = config.challenge.clone().unwrap_or_else(|| vec![challenge]);
    for line in lines {
        reply.headers.add("WWW-Authenticate", line);
    }
    Box::new(reply)
}
