//! A web service that caches its authorization decisions: `cargo run --example axum`.
//!
//! - `GET /decide?user=alice&action=read&resource=document-1` returns `allow` or `deny`. Concurrent
//!   requests for one decision share one evaluation.
//! - `POST /ban?user=alice` denies everything to a user. After its response, no decision from before
//!   the ban is served: neither a stored one, nor one whose evaluation was running.

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use sark_cache_core::clock::Clock;
use sark_cache_core::poll::Polled;
use sark_cache_core::single_flight::{CHECK_INTERVAL, Flights, Joined, WaitOutcome};
use sark_cache_core::{
    Cache, EncodeError, Hit, Key, KeyWriter, Options, Scope, Stamp, Tags, poll_or_keep,
};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;

const TTL: Duration = Duration::from_secs(300);

type Decision = &'static str;

/// A slow policy engine.
#[derive(Default)]
struct Engine {
    banned: Mutex<HashSet<String>>,
    evaluations: AtomicU64,
}

impl Engine {
    async fn evaluate(&self, user: &str) -> Decision {
        self.evaluations.fetch_add(1, Ordering::Relaxed);
        let is_banned = self.lock().contains(user);
        tokio::time::sleep(Duration::from_millis(20)).await;
        if is_banned { "deny" } else { "allow" }
    }

    fn ban(&self, user: &str) {
        self.lock().insert(user.to_owned());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.banned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Service {
    engine: Engine,
    cache: Arc<Cache<Decision>>,
    flights: Arc<Flights<Decision, ()>>,
}

impl Service {
    fn new() -> Self {
        let cache = Arc::new(Cache::new(Options::new(100_000)));
        let flights = Arc::new(Flights::new(Arc::clone(cache.log()), Arc::default()));
        Self { engine: Engine::default(), cache, flights }
    }

    /// Returns the decision for a request: from the cache, from another request's evaluation, or from
    /// an evaluation of its own. Returns `None` if the engine does not answer.
    async fn decide(&self, user: &str, key: Key) -> Option<Decision> {
        if let Some(entry) = self.cache.get(key.as_bytes()).await {
            return Some(entry.value());
        }
        let tags = Tags::default();
        let mut timed_out = None;
        loop {
            let supersedes = |flight| timed_out == Some(flight);
            let find = || self.cache.look_up(key.as_bytes()).map(Hit::into_arc);
            let leader = match self.flights.join(key.as_bytes(), &tags, &(), supersedes, find) {
                Joined::Found(entry) => return Some(entry.value()),
                Joined::TooManyLoads => return None,
                Joined::Lead(leader) => leader,
                Joined::Wait(waiter) => match waiter.await {
                    WaitOutcome::Outcome(decision) => return Some(decision),
                    WaitOutcome::Lead(leader) => leader,
                    WaitOutcome::Retry => continue,
                    WaitOutcome::TimedOut(flight) => {
                        timed_out = Some(flight);
                        continue;
                    }
                },
            };
            // If the client disconnects here, the leader is dropped and a waiter takes over.
            let decision = self.engine.evaluate(user).await;
            leader.finish(&decision, &tags, |stamp, tags| self.store(key, decision, tags, stamp));
            return Some(decision);
        }
    }

    /// Stores a decision, unless it was revoked during its evaluation.
    fn store(&self, key: Key, decision: Decision, tags: Tags, stamp: Stamp) {
        let cache = Arc::clone(&self.cache);
        let insert = async move { cache.insert(key, decision, TTL, tags, stamp).await };
        // An insert is rarely pending, and must then be completed.
        if let Polled::Pending(insert) = poll_or_keep(insert) {
            tokio::spawn(insert);
        }
    }

    /// Changes the policy, then revokes the decisions that depend on it.
    async fn ban(&self, user: &str) -> u64 {
        self.engine.ban(user);
        self.cache.invalidate(Scope::of([Some(user), None, None], &[])).await
    }
}

fn request_key(user: &str, action: &str, resource: &str) -> Result<Key, EncodeError> {
    let mut writer = KeyWriter::new();
    writer.request(user, action, resource)?;
    Ok(writer.to_key())
}

type Parameters = Query<HashMap<String, String>>;
type Response = (StatusCode, String);

async fn decide(State(service): State<Arc<Service>>, parameters: Parameters) -> Response {
    let [user, action, resource] = ["user", "action", "resource"].map(|name| parameters.get(name));
    let (Some(user), Some(action), Some(resource)) = (user, action, resource) else {
        return (StatusCode::BAD_REQUEST, "user, action and resource are required".to_owned());
    };
    match request_key(user, action, resource) {
        Ok(key) => match service.decide(user, key).await {
            Some(decision) => (StatusCode::OK, decision.to_owned()),
            None => (StatusCode::SERVICE_UNAVAILABLE, "no evaluation returns".to_owned()),
        },
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()),
    }
}

async fn ban(State(service): State<Arc<Service>>, parameters: Parameters) -> Response {
    let Some(user) = parameters.get("user") else {
        return (StatusCode::BAD_REQUEST, "user is required".to_owned());
    };
    (StatusCode::OK, format!("{} decisions removed", service.ban(user).await))
}

fn router(service: Arc<Service>) -> Router {
    Router::new().route("/decide", get(decide)).route("/ban", post(ban)).with_state(service)
}

/// Ends the wait for evaluations that do not return.
async fn check_waiters(service: Arc<Service>) {
    let clock = Clock::new();
    loop {
        tokio::time::sleep(CHECK_INTERVAL).await;
        service.flights.check_waiters(clock.now());
    }
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let service = Arc::new(Service::new());
    tokio::spawn(check_waiters(Arc::clone(&service)));
    let listener = TcpListener::bind("127.0.0.1:3000").await?;
    println!("http://{}/decide?user=alice&action=read&resource=1", listener.local_addr()?);
    axum::serve(listener, router(service)).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    fn alice() -> Key {
        request_key("alice", "read", "document-1").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn concurrent_requests_share_one_evaluation() {
        let service = Arc::new(Service::new());
        let requests = [(); 10].map(|()| {
            let service = Arc::clone(&service);
            tokio::spawn(async move { service.decide("alice", alice()).await })
        });
        for request in requests {
            assert_eq!(request.await.unwrap(), Some("allow"));
        }
        assert_eq!(service.engine.evaluations.load(Ordering::Relaxed), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn no_decision_from_before_a_ban_is_served_after_it() {
        let service = Arc::new(Service::new());
        let running = tokio::spawn({
            let service = Arc::clone(&service);
            async move { service.decide("alice", alice()).await }
        });
        while service.engine.evaluations.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        service.ban("alice").await;
        assert_eq!(service.decide("alice", alice()).await, Some("deny"));
        assert_eq!(running.await.unwrap(), Some("allow"), "it asked before the ban");
        assert_eq!(service.decide("alice", alice()).await, Some("deny"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_takes_over_from_a_client_that_disconnects() {
        let service = Arc::new(Service::new());
        let [leader, waiter] = [(); 2].map(|()| {
            let service = Arc::clone(&service);
            tokio::spawn(async move { service.decide("alice", alice()).await })
        });
        while service.engine.evaluations.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        leader.abort();
        assert!(leader.await.unwrap_err().is_cancelled());
        assert_eq!(waiter.await.unwrap(), Some("allow"));
    }

    async fn call(server: &str, method: &str, path: &str) -> io::Result<String> {
        let mut stream = TcpStream::connect(server).await?;
        let request =
            format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut response = String::new();
        stream.read_to_string(&mut response).await?;
        Ok(response)
    }

    #[tokio::test]
    async fn the_service_answers_over_http() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let server = listener.local_addr()?.to_string();
        let serving = axum::serve(listener, router(Arc::new(Service::new())));
        let serving = tokio::spawn(serving.into_future());
        let path = "/decide?user=alice&action=read&resource=document-1";
        assert!(call(&server, "GET", path).await?.ends_with("\r\n\r\nallow"));
        let banned = call(&server, "POST", "/ban?user=alice").await?;
        assert!(banned.ends_with("\r\n\r\n1 decisions removed"), "{banned}");
        assert!(call(&server, "GET", path).await?.ends_with("\r\n\r\ndeny"));
        assert!(call(&server, "GET", "/decide?user=alice").await?.starts_with("HTTP/1.1 400 "));
        serving.abort();
        Ok(())
    }
}
