//! Answers that many routes give alike, for their descriptions; the others each service describes itself.

use utoipa::IntoResponses;

use crate::ProblemBody;

/// No or a wrong API key.
#[derive(IntoResponses)]
#[response(status = 401, content_type = "application/problem+json",
    headers(("WWW-Authenticate" = String, description = "`Bearer`")))]
pub struct Unauthorized(pub ProblemBody<'static>);

/// No or a wrong key; a merchant's is one.
#[derive(IntoResponses)]
#[response(status = 401, content_type = "application/problem+json",
    headers(("WWW-Authenticate" = String, description = "`Bearer`")))]
pub struct OperatorsOnly(pub ProblemBody<'static>);

/// Another method than GET.
#[derive(IntoResponses)]
#[response(status = 405, content_type = "application/problem+json",
    headers(("Allow" = String, description = "`GET,HEAD`")))]
pub struct GetOnly(pub ProblemBody<'static>);

/// Another method than POST.
#[derive(IntoResponses)]
#[response(status = 405, content_type = "application/problem+json", headers(("Allow" = String, description = "`POST`")))]
pub struct PostOnly(pub ProblemBody<'static>);
