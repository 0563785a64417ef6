//! Who may change anything: whoever shows the token or a client certificate, or, where neither is
//! configured, whoever asks from this very machine.

use std::fmt;
use std::sync::Arc;

use axum::http::{HeaderMap, StatusCode, header};

use super::answer::Refusal;

/// What the transport knows of whoever asks. It is attached to every request; one that carries none
/// is taken for a stranger's.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// Whether the connection comes from this very machine.
    pub loopback: bool,
    /// Whether nobody on the way can read or change what is said.
    pub encrypted: bool,
    /// The name in the client certificate, where one was shown and verified.
    pub certificate: Option<String>,
}

/// Whether what was shown is the token. It has to take the same time whatever is shown.
pub type TokenCheck = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// The rules.
#[derive(Clone, Default)]
pub struct Access {
    /// The bearer token, where one is configured.
    pub token: Option<TokenCheck>,
    /// Whether client certificates are asked for and verified by the transport.
    pub certificates: bool,
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The token never gets into a log.
        let Self { token, certificates } = self;
        write!(f, "Access(token: {}, certificates: {certificates})", token.is_some())
    }
}

impl Access {
    /// With this token, and without certificates.
    #[must_use]
    pub fn with_token(token: impl Into<String>) -> Self {
        let token = token.into();
        let check = move |shown: &str| same(shown.as_bytes(), token.as_bytes());
        Self { token: Some(Arc::new(check)), certificates: false }
    }

    /// Whether this caller may change anything, or why not.
    pub(super) fn may_change(
        &self,
        headers: &HeaderMap,
        caller: Option<&Caller>,
    ) -> Result<(), Refusal> {
        if self.certificates && caller.is_some_and(|caller| caller.certificate.is_some()) {
            return Ok(());
        }
        if self.certificates && !caller.is_some_and(|caller| caller.encrypted || caller.loopback) {
            let why = "this node speaks TLS, and changes from elsewhere have to come over it";
            return Err(Refusal::new(StatusCode::FORBIDDEN, why));
        }
        if let Some(token) = &self.token {
            return self.check_token(headers, token);
        }
        if self.certificates {
            return Err(Refusal::new(
                StatusCode::UNAUTHORIZED,
                "this needs a client certificate of the cluster",
            ));
        }
        check_loopback(headers, caller)
    }

    fn check_token(&self, headers: &HeaderMap, is_token: &TokenCheck) -> Result<(), Refusal> {
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let shown = shown.and_then(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
        });
        let why = match shown {
            Some(shown) if is_token(shown) => return Ok(()),
            Some(_) => "the token is not the one that this node was configured with",
            None if self.certificates => {
                "this needs a client certificate of the cluster, or the token: \
                 `Authorization: Bearer <token>`"
            }
            None => "this needs the token: `Authorization: Bearer <token>`",
        };
        Err(Refusal::new(StatusCode::UNAUTHORIZED, why))
    }
}

/// Without a token nothing tells a person from a web page in that person's browser, or from a
/// stranger behind a proxy on this machine, but what both leave in the headers.
fn check_loopback(headers: &HeaderMap, caller: Option<&Caller>) -> Result<(), Refusal> {
    let why = if !caller.is_some_and(|caller| caller.loopback) {
        "neither a token nor client certificates are configured, so changes are accepted from \
         this machine only"
    } else if headers.contains_key(header::ORIGIN) {
        "without a token no web page may change anything"
    } else if [header::FORWARDED, header::VIA].iter().any(|name| headers.contains_key(name))
        || headers.contains_key("x-forwarded-for")
    {
        "without a token nothing that came through a proxy may change anything"
    } else {
        return Ok(());
    };
    Err(Refusal::new(StatusCode::FORBIDDEN, why))
}

/// Compares in a time that depends on the length of what was shown, and on nothing else.
fn same(shown: &[u8], token: &[u8]) -> bool {
    let mut difference = u8::from(shown.len() != token.len() || token.is_empty());
    for (at, byte) in shown.iter().enumerate() {
        let expected = token.get(at % token.len().max(1)).copied().unwrap_or_default();
        difference |= std::hint::black_box(byte ^ expected);
    }
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (header::HeaderName::from_static(name), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    fn from_here() -> Option<Caller> {
        Some(Caller { loopback: true, ..Caller::default() })
    }

    #[test]
    fn a_token_is_compared_in_full() {
        assert!(same(b"secret", b"secret"));
        for other in [&b""[..], b"secre", b"secret ", b"secretsecret", b"Secret"] {
            assert!(!same(other, b"secret"), "{other:?}");
        }
        assert!(!same(b"", b""));
    }

    #[test]
    fn with_a_token_nobody_gets_in_without_it_from_anywhere() {
        let access = Access::with_token("secret");
        let shown = headers(&[("authorization", "bearer secret")]);
        assert_eq!(access.may_change(&shown, None), Ok(()));
        for wrong in [headers(&[]), headers(&[("authorization", "Bearer other")])] {
            let refused = access.may_change(&wrong, from_here().as_ref()).unwrap_err();
            assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
        }
        assert!(!format!("{access:?}").contains("secret"));
    }

    #[test]
    fn a_client_certificate_does_as_well_where_they_are_configured() {
        let caller =
            Caller { encrypted: true, certificate: Some("n1".into()), ..Caller::default() };
        let access = Access { certificates: true, ..Access::with_token("secret") };
        assert_eq!(access.may_change(&headers(&[]), Some(&caller)), Ok(()));
        let unconfigured = Access::default();
        assert!(unconfigured.may_change(&headers(&[]), Some(&caller)).is_err());
        let in_clear = headers(&[("authorization", "Bearer secret")]);
        let refused = access.may_change(&in_clear, Some(&Caller::default())).unwrap_err();
        assert_eq!(refused.status, StatusCode::FORBIDDEN, "the token could be read on the way");
        let alone = Access { token: None, certificates: true };
        assert!(alone.may_change(&headers(&[]), from_here().as_ref()).is_err());
    }

    #[test]
    fn without_either_only_this_machine_may_and_no_web_page_on_it() {
        let access = Access::default();
        let here = from_here();
        assert_eq!(access.may_change(&headers(&[]), here.as_ref()), Ok(()));
        let refused = |headers: &HeaderMap, caller: Option<&Caller>| {
            access.may_change(headers, caller).unwrap_err().status
        };
        assert_eq!(refused(&headers(&[]), None), StatusCode::FORBIDDEN);
        assert_eq!(refused(&headers(&[]), Some(&Caller::default())), StatusCode::FORBIDDEN);
        let page = headers(&[("origin", "http://evil.example")]);
        assert_eq!(refused(&page, here.as_ref()), StatusCode::FORBIDDEN);
        let proxied = headers(&[("x-forwarded-for", "10.0.0.1")]);
        assert_eq!(refused(&proxied, here.as_ref()), StatusCode::FORBIDDEN);
    }
}
