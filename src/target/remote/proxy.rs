//! Proxies of the environment: named where a connection fails, and refused where they cannot be used. The HTTP
//! library passes over an address it cannot read, and would go where a proxy was to be in between.

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

use crate::target::Permanent;

/// The variables that are looked at, with those in small letters.
const VARIABLES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];
/// How an address is written down.
const FORM: &str = "http://USER:PASSWORD@HOST:PORT, login and port as needed";

/// A proxy that requests to some address go through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Proxy {
    /// Host and port, without the login.
    pub(super) at: String,
    /// Whether a login is given with it.
    pub(super) has_login: bool,
}

/// The proxy that the environment names for an address; none when connections go straight there.
pub(super) fn of(url: &Url) -> Option<Proxy> {
    let found = Matcher::from_env().intercept(&url.as_str().parse().ok()?)?;
    let at = found.uri().authority()?.to_string();
    Some(Proxy { at, has_login: found.basic_auth().is_some() })
}

/// What keeps the proxies of the environment from being used. `variable` gives the value of one.
pub(super) fn check(variable: impl Fn(&str) -> Option<String>) -> Result<(), Permanent> {
    for name in VARIABLES {
        let Some(value) = variable(name).filter(|value| !value.is_empty()) else { continue };
        let somewhere = hyper::Uri::from_static("http://host.invalid/");
        // The value itself stays unsaid: it may hold a password.
        match Matcher::builder().all(value).build().intercept(&somewhere) {
            None => {
                return Err(Permanent(format!(
                    "{name} of the environment is no address of a proxy; it is written {FORM}"
                )));
            }
            Some(proxy) if proxy.uri().scheme_str().is_some_and(|scheme| scheme.starts_with("socks")) => {
                return Err(Permanent(format!(
                    "{name} of the environment names a SOCKS proxy, which is not supported: name an HTTP proxy, or \
                     leave the host out with NO_PROXY"
                )));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// What to say of a proxy that wants a login, or another one.
pub(super) fn wants_login(proxy: Option<&Proxy>) -> String {
    match proxy {
        Some(Proxy { at, has_login: true }) => {
            format!("the proxy {at} refuses the login that the environment gives for it")
        }
        Some(Proxy { at, has_login: false }) => {
            format!("the proxy {at} wants a login; write it into the environment as {FORM}")
        }
        None => format!("the proxy wants a login; write it into the environment as {FORM}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(name: &'static str, value: &'static str) -> Result<(), String> {
        check(|asked| (asked == name).then(|| value.to_owned())).map_err(|e| e.0)
    }

    #[test]
    fn addresses_that_cannot_be_used_are_refused_without_showing_them() {
        for good in ["http://proxy:3128", "https://user:secret@proxy.example.org:443/", "proxy:3128", ""] {
            assert_eq!(with("HTTPS_PROXY", good), Ok(()), "{good}");
        }
        for bad in ["notaurl:::x", "ftp://proxy", "http://", "http://user:secret@"] {
            let why = with("all_proxy", bad).unwrap_err();
            assert!(why.starts_with("all_proxy of the environment is no address"), "{bad}: {why}");
            assert!(!why.contains("secret"), "{why}");
        }
        let why = with("ALL_PROXY", "socks5h://user:secret@proxy:1080").unwrap_err();
        assert!(why.contains("SOCKS") && !why.contains("secret"), "{why}");
    }

    #[test]
    fn a_refused_login_is_told_from_one_that_is_missing() {
        let proxy = |has_login| Proxy { at: "proxy:3128".to_owned(), has_login };
        assert!(wants_login(Some(&proxy(true))).contains("proxy:3128 refuses the login"));
        assert!(wants_login(Some(&proxy(false))).contains("proxy:3128 wants a login"));
        assert!(wants_login(None).contains("wants a login"));
    }
}
