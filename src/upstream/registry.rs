//! A real registry behind the [`Origin`] trait: one question becomes the requests that it takes, across challenges, redirects and
//! CDNs that want to be asked in another way. Each detour is taken at most once; there are no loops and no retries.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use http::header::LOCATION;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE};
use reqwest::{Response, StatusCode};
use url::Url;

use super::auth::{Authenticator, Authorization};
use super::clients::Proxies;
use super::error::{BuildError, Refusal, UpstreamError};
use super::redirect::{Hop, MAX_REDIRECTS, Reach, Redirects};
use super::resolve::Resolver;
use super::settings::RegistryConfig;
use super::wire::{self, Request, Wire};
use super::{Answer, Method, Observer, Origin, Question, Target, answer};
use crate::oci::{MANIFEST_ACCEPT, MediaType};

/// One configured registry. Cheap to clone; all clones share connections, tokens and limits.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    url: Url,
    wire: Arc<Wire>,
    auth: Authenticator,
    redirects: Redirects,
}

/// How a request is put. Begins as the question's method.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Head,
    Get,
    GetRange {
        first: u64,
        last: Option<u64>,
    },
    /// In place of a HEAD that is not allowed: a GET of the first byte, for what its headers say of the whole.
    Probe,
}

/// An answer and where it came from.
struct Reply {
    response: Response,
    hop: Hop,
}

impl Registry {
    /// Sets up the way to a registry. Nothing is sent before the first question; proxies are those of the environment
    /// (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).
    ///
    /// # Errors
    /// [`BuildError`], if the configuration cannot work or would send a credential in the clear.
    pub fn new(config: RegistryConfig, observer: Arc<dyn Observer>) -> Result<Self, BuildError> {
        Self::with_proxies(config, observer, Proxies::from_environment())
    }

    pub(super) fn with_proxies(
        config: RegistryConfig,
        observer: Arc<dyn Observer>,
        proxies: Proxies,
    ) -> Result<Self, BuildError> {
        let resolver = Resolver::new(config.resolve_timeout, config.connect_timeout);
        Self::by_way_of(config, observer, proxies, resolver)
    }

    /// The registry, through these proxies and by what this resolver says.
    pub(super) fn by_way_of(
        config: RegistryConfig,
        observer: Arc<dyn Observer>,
        proxies: Proxies,
        resolver: Resolver,
    ) -> Result<Self, BuildError> {
        config.check()?;
        let wire = Arc::new(Wire::new(&config, proxies, resolver, observer)?);
        let auth = Authenticator::new(&config, Arc::clone(&wire));
        let redirects = Redirects::new(config.url.clone(), config.trusted_redirects);
        Ok(Self(Arc::new(Inner { url: config.url, wire, auth, redirects })))
    }
}

impl Origin for Registry {
    fn ask(&self, question: Question) -> BoxFuture<'static, Result<Answer, UpstreamError>> {
        let registry = Arc::clone(&self.0);
        async move {
            let result = registry.answer(&question).await;
            if let Err(UpstreamError::Refused(refusal)) = &result {
                tracing::warn!(upstream = %registry.wire.upstream, repository = %question.repository, %refusal, "refused");
            }
            result
        }
        .boxed()
    }
}

impl Inner {
    async fn answer(&self, question: &Question) -> Result<Answer, UpstreamError> {
        let Question { repository, target, method, .. } = question;
        let mut form = Form::from(*method);
        let mut authorization = self.auth.first(repository, target).await?;
        let (mut challenged, mut asked_again) = (false, false);
        loop {
            let Reply { response, hop } = self.walk(question, &mut form, &authorization).await?;
            let status = response.status();
            if hop.reach == Reach::Own && status == StatusCode::UNAUTHORIZED && !challenged {
                challenged = true;
                let headers = response.headers().clone();
                wire::small_body(response).await;
                authorization = self.auth.after_challenge(repository, target, authorization, &headers).await?;
            } else if hop.reach != Reach::Own && matches!(status.as_u16(), 400 | 401 | 403) && !asked_again {
                // A signed URL that has expired: the registry gives a new one.
                asked_again = true;
                wire::small_body(response).await;
            } else {
                return answer::read(&self.wire, form, &hop, response).await;
            }
        }
    }

    /// From the registry along its redirects to the first answer that is none.
    async fn walk(&self, question: &Question, form: &mut Form, authorization: &Authorization) -> Result<Reply, UpstreamError> {
        let mut hop = Hop { url: self.url_of(question), reach: Reach::Own };
        let mut redirects = 0;
        loop {
            let response = self.send(question, *form, &hop, authorization).await?;
            if matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                let host = || hop.url.host_str().unwrap_or_default().to_owned();
                let Some(location) = response.headers().get(LOCATION) else {
                    return Err(Refusal::Redirect { host: host(), why: "it does not say where to" }.into());
                };
                if redirects == MAX_REDIRECTS {
                    return Err(Refusal::Redirect { host: host(), why: "there are too many of them" }.into());
                }
                redirects += 1;
                hop = self.redirects.follow(&hop.url, location)?;
                wire::small_body(response).await;
            } else if *form == Form::Head && refuses_head(question, &hop, response.status()) {
                *form = Form::Probe;
            } else {
                return Ok(Reply { response, hop });
            }
        }
    }

    async fn send(
        &self,
        question: &Question,
        form: Form,
        hop: &Hop,
        authorization: &Authorization,
    ) -> Result<Response, UpstreamError> {
        let mut headers = HeaderMap::from_iter([(ACCEPT, accept(&question.target))]);
        match form {
            Form::Head | Form::Get => {}
            Form::GetRange { first, last } => {
                let last = last.map_or_else(String::new, |last| last.to_string());
                let range = HeaderValue::from_str(&format!("bytes={first}-{last}")).expect("digits are header characters");
                headers.insert(RANGE, range);
            }
            Form::Probe => {
                headers.insert(RANGE, HeaderValue::from_static("bytes=0-0"));
            }
        }
        if let (Reach::Own, Some(authorization)) = (hop.reach, authorization.header()) {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        let method = if form == Form::Head { reqwest::Method::HEAD } else { reqwest::Method::GET };
        self.wire.send(Request { kind: question.target.kind(), method, hop, headers }).await
    }

    /// The registry's URL for what is asked. Its parts are names, tags and digests, none of which needs escaping in a path.
    fn url_of(&self, question: &Question) -> Url {
        let mut url = self.url.clone();
        let base = format!("{}/v2/{}", url.path().trim_end_matches('/'), question.repository);
        match &question.target {
            Target::Manifest(reference) => url.set_path(&format!("{base}/manifests/{reference}")),
            Target::Blob(digest) => url.set_path(&format!("{base}/blobs/{digest}")),
            Target::Tags { query } => {
                url.set_path(&format!("{base}/tags/list"));
                url.set_query(Some(query.as_str()).filter(|query| !query.is_empty()));
            }
            Target::Referrers { digest, query } => {
                url.set_path(&format!("{base}/referrers/{digest}"));
                url.set_query(Some(query.as_str()).filter(|query| !query.is_empty()));
            }
        }
        url
    }
}

/// Whether a HEAD of a blob is answered like this by those who do not allow HEAD: a CDN whose URL is signed for GET, or a registry
/// that does not know the method there.
fn refuses_head(question: &Question, hop: &Hop, status: StatusCode) -> bool {
    let is_blob = matches!(question.target, Target::Blob(_));
    let status = status.as_u16();
    is_blob && (status == 405 || (hop.reach != Reach::Own && matches!(status, 400 | 403)))
}

fn accept(target: &Target) -> HeaderValue {
    HeaderValue::from_static(match target {
        Target::Manifest(_) => MANIFEST_ACCEPT,
        Target::Blob(_) => "*/*",
        Target::Tags { .. } => "application/json",
        Target::Referrers { .. } => MediaType::OCI_INDEX,
    })
}

impl From<Method> for Form {
    fn from(method: Method) -> Self {
        match method {
            Method::Head => Self::Head,
            Method::Get => Self::Get,
            Method::GetRange { first, last } => Self::GetRange { first, last },
        }
    }
}
