//! The listener for the API's callbacks, apart from everything else that a replica serves: it is
//! reachable from outside. Its answer does not show whether a token is known.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri};

use crate::domain::callback::CallbackToken;
use crate::worker::WorkerHandle;

/// `POST …/callback/<replica>/<token>`. What stands before is the way of a gateway, and any replica
/// may be asked. The body is not read: nobody has signed it.
pub(super) fn routes(view: WorkerHandle) -> Router {
    Router::new().fallback(receive).with_state(Arc::new(view))
}

/// The answer does not depend on whether the token is known.
async fn receive(State(view): State<Arc<WorkerHandle>>, method: Method, uri: Uri) -> StatusCode {
    let mut parts = uri.path().rsplit('/');
    let token = parts.next().and_then(CallbackToken::parse);
    let is_ours = method == Method::POST && parts.nth(1) == Some("callback");
    let token = token.filter(|_| is_ours);
    view.callbacks().receive(token);
    if token.is_some() { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND }
}
