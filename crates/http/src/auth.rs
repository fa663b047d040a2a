//! Who is asking: the API key of a merchant, or of an operator, as a bearer token (RFC 6750).

use axum::http::{HeaderMap, header};
use sluice_domain::{Merchant, Merchants, Operators};
use utoipa::{
    Modify,
    openapi::{
        ComponentsBuilder, OpenApi,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};

use crate::problem::Problem;

/// The merchant whose key the request carries.
///
/// # Errors
/// A 401 problem when the `Authorization` header is missing, given twice, not a bearer token, or of nobody's key; it
/// doesn't say which.
pub fn authenticate(headers: &HeaderMap, merchants: &Merchants) -> Result<Merchant, Problem> {
    bearer(headers).and_then(|key| merchants.by_key(key)).ok_or_else(Problem::unauthorized)
}

/// Lets the operators of the deployment through, and nobody else.
///
/// # Errors
/// A 401 problem when the `Authorization` header is missing, given twice, not a bearer token, or not an operator's.
pub fn authenticate_operator(headers: &HeaderMap, operators: &Operators) -> Result<(), Problem> {
    const DETAIL: &str = "Send an operator's key as `Authorization: Bearer <key>`.";
    match bearer(headers).is_some_and(|key| operators.knows(key)) {
        true => Ok(()),
        false => Err(Problem { detail: DETAIL.into(), ..Problem::unauthorized() }),
    }
}

/// What the operator whose key the request carries is called; see [`Operators::name`].
pub fn operator_name(headers: &HeaderMap) -> String {
    Operators::name(bearer(headers).unwrap_or_default())
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (value, None) = (values.next()?, values.next()) else { return None };
    let (scheme, key) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim_matches(' '))
}

/// Adds the scheme `api_key` that operations refer to.
#[derive(Debug, Clone, Copy)]
pub struct ApiKeySecurity;

impl Modify for ApiKeySecurity {
    fn modify(&self, openapi: &mut OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The API key of one merchant; it sees that merchant's orders only."))
            .build();
        let components = openapi.components.get_or_insert_with(|| ComponentsBuilder::new().build());
        components.add_security_scheme("api_key", SecurityScheme::Http(scheme));
    }
}

/// Adds the scheme `operator_key` that operators' routes refer to.
#[derive(Debug, Clone, Copy)]
pub struct OperatorKeySecurity;

impl Modify for OperatorKeySecurity {
    fn modify(&self, openapi: &mut OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .description(Some("The key of an operator, who sees every merchant's orders."))
            .build();
        let components = openapi.components.get_or_insert_with(|| ComponentsBuilder::new().build());
        components.add_security_scheme("operator_key", SecurityScheme::Http(scheme));
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use sluice_domain::KeyHash;

    use super::*;

    fn merchant_of(values: &[&'static str]) -> Option<String> {
        let merchants = Merchants::new([("m-1", "k-1"), ("m-2", "k-2")]).unwrap();
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(header::AUTHORIZATION, HeaderValue::from_static(value));
        }
        authenticate(&headers, &merchants).ok().map(|m| m.id.to_string())
    }

    #[test]
    fn an_operator_is_asked_for_a_key_of_its_own() {
        let operators = Operators::new(KeyHash::of("o-1").into_iter().collect());
        let mut headers = HeaderMap::new();
        let problem = authenticate_operator(&headers, &operators).unwrap_err();
        assert_eq!((problem.status.as_u16(), problem.kind), (401, "unauthorized"));
        assert!(problem.detail.contains("operator's key"));
        headers.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer o-1"));
        assert_eq!(authenticate_operator(&headers, &operators), Ok(()));
        assert!(authenticate_operator(&headers, &Operators::default()).is_err());
    }

    #[test]
    fn only_one_bearer_token_of_a_known_key_will_do() {
        assert_eq!(merchant_of(&["Bearer k-1"]).as_deref(), Some("m-1"));
        assert_eq!(merchant_of(&["bearer  k-2 "]).as_deref(), Some("m-2"));
        for wrong in [&[][..], &["k-1"], &["Basic k-1"], &["Bearer"], &["Bearer k-3"], &["Bearer k-1", "Bearer k-1"]] {
            assert_eq!(merchant_of(wrong), None, "{wrong:?}");
        }
    }
}
