//! The gate as a whole, before origins that do as they are told, on a clock that is turned.

mod script;

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use self::script::{Origins, Reply, manifest, refused};
use super::*;
use crate::upstream::error::Party;
use crate::upstream::{Method, Target};

const LIMIT: RateLimit = RateLimit { limit: Some(100), remaining: 10, window: Some(Duration::from_secs(600)), source: None };

fn status(status: u16) -> Reply {
    Reply::Error(UpstreamError::status(status))
}

fn limited(seconds: Option<u64>, by: Party) -> Reply {
    Reply::Error(UpstreamError::RateLimited { retry_after: seconds.map(Duration::from_secs), by })
}

/// Whether an error says that nothing was asked because of this failure.
fn is_suspended_by(result: &Result<(), UpstreamError>, cause: &UpstreamError) -> bool {
    matches!(result, Err(UpstreamError::Suspended { cause: found, .. }) if **found == *cause)
}

#[tokio::test(start_paused = true)]
async fn what_is_offline_is_not_asked_and_says_so_at_once() {
    let origins = Origins::new([Reply::Answer]);
    let gate = origins.gate(|config| config.offline = true);
    let start = Instant::now();
    assert_eq!(script::ask(&gate).await, Err(UpstreamError::Offline));
    assert!(start.elapsed().is_zero() && origins.asked().is_empty());
    assert!(gate.standing().is_offline && gate.saving().is_none());
    assert_eq!(origins.unasked(), [Unasked::Offline]);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_reached_is_left_alone_and_found_again_without_being_asked() {
    let origins = Origins::new([Reply::Error(refused())]);
    let gate = origins.gate(|_| {});
    assert_eq!(script::ask(&gate).await, Err(refused()));
    let start = Instant::now();
    for _ in 0..100 {
        assert!(is_suspended_by(&script::ask(&gate).await, &refused()));
    }
    assert!(start.elapsed().is_zero());
    assert_eq!(origins.asked().len(), 1, "it is left alone");
    assert_eq!(origins.unasked(), [Unasked::Suspended; 100]);
    let EndpointState::Suspended { cause, next_look, .. } = gate.standing().endpoints[0].state.clone() else {
        panic!("it is open")
    };
    assert!(cause == refused() && next_look <= Duration::from_millis(500) && gate.standing().is_open());

    sleep(Duration::from_secs(120)).await;
    let looks = origins.asked().len() - 1;
    assert!((9..=22).contains(&looks), "{looks} looks in two minutes, ever more seldom");
    assert!(origins.asked()[1..].iter().all(|(_, question)| question.method == Method::Head), "and cheap ones");
    assert!(is_suspended_by(&script::ask(&gate).await, &refused()));

    origins.set(0, Reply::Answer);
    sleep(Duration::from_secs(15)).await;
    assert!(!gate.standing().is_open(), "nobody has asked, and it is known all the same");
    assert_eq!(script::ask(&gate).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn server_errors_in_a_row_open_it_and_a_404_among_them_does_not() {
    for (between, is_open) in [(status(503), true), (Reply::Answer, false), (Reply::Error(UpstreamError::NotFound), false)] {
        let origins = Origins::new([status(503)]);
        let gate = origins.gate(|_| {});
        for reply in [status(503), between, status(502)] {
            origins.set(0, reply);
            let _ = script::ask(&gate).await;
        }
        assert_eq!(gate.standing().is_open(), is_open);
    }
}

/// Behind a load balancer with nobody behind it: it accepts, and closes.
#[tokio::test(start_paused = true)]
async fn who_breaks_off_without_an_answer_is_left_alone_and_the_next_is_asked() {
    let broken_off = UpstreamError::NoAnswer { reason: "connection closed before message completed".to_owned() };
    for failure in [broken_off, UpstreamError::status(522)] {
        let origins = Origins::new([Reply::Error(failure.clone())]);
        let gate = origins.gate(|_| {});
        for _ in 0..3 {
            assert_eq!(script::ask(&gate).await, Err(failure.clone()));
        }
        sleep(Duration::from_secs(20)).await;
        assert!(is_suspended_by(&script::ask(&gate).await, &failure), "a look that meets it does not close it");
        assert_eq!(origins.asked().iter().filter(|(_, question)| question.method == Method::Get).count(), 3);

        let origins = Origins::new([Reply::Error(failure), Reply::Answer]);
        let gate = origins.gate(|_| {});
        for _ in 0..10 {
            assert_eq!(script::ask(&gate).await, Ok(()));
        }
        assert_eq!(origins.endpoints_asked(), [0, 1, 0, 1, 0, 1, 1, 1, 1, 1, 1, 1, 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn silence_counts_also_where_nobody_waits_for_its_end() {
    let origins = Origins::new([Reply::Silence]);
    let gate = origins.gate(|_| {});
    for patience in [4, 4, 4, 6, 6] {
        assert!(timeout(Duration::from_secs(patience), script::ask(&gate)).await.is_err());
        assert!(!gate.standing().is_open(), "who leaves early has seen nothing");
    }
    // Those who leave at once together are as good as three in a row.
    assert!(timeout(Duration::from_secs(6), script::ask(&gate)).await.is_err());
    assert!(is_suspended_by(&script::ask(&gate).await, &UpstreamError::Timeout { phase: Phase::Headers }));
    origins.set(0, Reply::Answer);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(script::ask(&gate).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn one_thing_that_always_fails_does_not_keep_the_rest_from_being_asked() {
    let origins = Origins::new([Reply::Answer]);
    let gate = origins.gate(|_| {});
    assert_eq!(script::ask(&gate).await, Ok(()));
    origins.fail_only("broken/repository");
    for _ in 0..20 {
        for _ in 0..3 {
            let _ = gate.ask(manifest("broken/repository")).await;
        }
        assert!(gate.standing().is_open());
        sleep(Duration::from_millis(510)).await;
        assert_eq!(script::ask(&gate).await, Ok(()), "it was found to answer others");
    }
}

#[tokio::test(start_paused = true)]
async fn who_flaps_is_looked_at_less_and_less() {
    let origins = Origins::new([Reply::Error(refused())]);
    let gate = origins.gate(|_| {});
    let mut rests = Vec::new();
    for _ in 0..8 {
        origins.set(0, Reply::Error(refused()));
        let _ = script::ask(&gate).await;
        origins.set(0, Reply::Answer);
        let start = Instant::now();
        while gate.standing().is_open() {
            sleep(Duration::from_millis(10)).await;
        }
        rests.push(start.elapsed());
    }
    assert!(rests[0] <= Duration::from_millis(520) && rests[7] >= Duration::from_secs(7), "{rests:?}");
}

#[tokio::test(start_paused = true)]
async fn after_a_429_nothing_is_asked_until_the_time_it_names() {
    for (seconds, by, named) in
        [(Some(30), Party::Registry, 30), (None, Party::TokenServer, 60), (Some(999_999), Party::Registry, 86_400)]
    {
        let origins = Origins::new([limited(seconds, by)]);
        let gate = origins.gate(|_| {});
        let named = Duration::from_secs(named);
        assert_eq!(script::ask(&gate).await, Err(UpstreamError::RateLimited { retry_after: Some(named), by }));
        origins.set(0, Reply::Answer);
        sleep(named - Duration::from_secs(1)).await;
        let rest = Some(Duration::from_secs(1));
        assert_eq!(script::ask(&gate).await, Err(UpstreamError::RateLimited { retry_after: rest, by: Party::Registry }));
        assert_eq!((gate.standing().limited_for(), origins.asked().len()), (Duration::from_secs(1), 1));
        assert_eq!(origins.unasked(), [Unasked::Limited]);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(script::ask(&gate).await, Ok(()));
    }
    let origins = Origins::new([limited(Some(30), Party::Storage)]);
    let gate = origins.gate(|_| {});
    let _ = script::ask(&gate).await;
    origins.set(0, Reply::Answer);
    assert_eq!(script::ask(&gate).await, Ok(()), "a CDN's limit is not the registry's");
}

#[tokio::test(start_paused = true)]
async fn looks_heed_a_429_as_well() {
    let origins = Origins::new([Reply::Error(refused())]);
    let gate = origins.gate(|_| {});
    let _ = script::ask(&gate).await;
    origins.set(0, limited(Some(100), Party::Registry));
    sleep(Duration::from_secs(1)).await;
    let asked = origins.asked().len();
    assert!(asked > 1 && !gate.standing().is_open(), "it answers, and asks for peace");
    sleep(Duration::from_secs(90)).await;
    let _ = script::ask(&gate).await;
    assert_eq!(origins.asked().len(), asked);
}

#[tokio::test(start_paused = true)]
async fn the_reserve_is_saved_while_the_upstream_is_asked_at_all() {
    let origins = Origins::new([Reply::Told(LIMIT)]);
    let gate = origins.gate(|_| {});
    assert!(gate.saving().is_none() && gate.rate_limit().is_none());
    assert_eq!(script::ask(&gate).await, Ok(()));
    assert_eq!((gate.saving(), gate.rate_limit()), (Some(UpstreamError::Saving { remaining: 10 }), Some(LIMIT)));
    assert_eq!(origins.unasked(), [Unasked::Saving]);
    assert_eq!(script::ask(&gate).await, Ok(()), "what has to be asked is asked");
    origins.set(0, Reply::Told(RateLimit { remaining: 11, ..LIMIT }));
    assert_eq!((script::ask(&gate).await, gate.saving()), (Ok(()), None));
    origins.set(0, Reply::Told(LIMIT));
    assert_eq!(script::ask(&gate).await, Ok(()));
    sleep(Duration::from_secs(600)).await;
    assert_eq!((gate.saving(), gate.rate_limit()), (None, None), "the window is over");

    let spends_all = origins.gate(|config| config.reserve = Reserve::Pulls(0));
    assert_eq!((script::ask(&spends_all).await, spends_all.saving()), (Ok(()), None));
}

#[tokio::test(start_paused = true)]
async fn the_first_endpoint_that_answers_is_asked() {
    let origins = Origins::new([Reply::Answer, Reply::Answer]);
    let gate = origins.gate(|_| {});
    assert_eq!(script::ask(&gate).await, Ok(()));
    assert_eq!(origins.endpoints_asked(), [0]);
    origins.set(0, Reply::Error(refused()));
    for _ in 0..3 {
        assert_eq!(script::ask(&gate).await, Ok(()));
    }
    assert_eq!(origins.endpoints_asked()[1..], [0, 1, 1, 1], "the first one is left alone");
    assert!(!gate.standing().is_open());
    origins.set(0, Reply::Answer);
    sleep(Duration::from_secs(30)).await;
    let before = origins.asked().len();
    assert_eq!(script::ask(&gate).await, Ok(()));
    assert_eq!(origins.endpoints_asked()[before..], [0], "it comes first again");
}

#[tokio::test(start_paused = true)]
async fn a_silent_endpoint_leaves_time_for_the_next_and_a_limited_one_is_passed_over() {
    let origins = Origins::new([Reply::Silence, Reply::Answer]);
    let gate = origins.gate(|_| {});
    let start = Instant::now();
    assert_eq!(script::ask(&gate).await, Ok(()));
    assert_eq!(start.elapsed(), Duration::from_secs(5));
    origins.set(0, limited(Some(60), Party::Registry));
    let start = Instant::now();
    for _ in 0..2 {
        assert_eq!(script::ask(&gate).await, Ok(()));
    }
    assert_eq!((start.elapsed(), &origins.endpoints_asked()[2..]), (Duration::ZERO, &[0, 1, 1][..]));
    assert_eq!(gate.standing().limited_for(), Duration::ZERO, "one of them may be asked");
}

#[tokio::test(start_paused = true)]
async fn only_the_first_endpoint_is_believed_that_something_is_not_there() {
    for denial in [UpstreamError::NotFound, UpstreamError::denied(401)] {
        let origins = Origins::new([Reply::Error(denial.clone()), Reply::Answer]);
        let gate = origins.gate(|_| {});
        assert_eq!(script::ask(&gate).await, Err(denial.clone()));
        assert_eq!(origins.endpoints_asked(), [0]);

        let origins = Origins::new([Reply::Error(refused()), Reply::Error(denial)]);
        let gate = origins.gate(|_| {});
        assert_eq!(script::ask(&gate).await, Err(refused()));
        assert_eq!(origins.endpoints_asked(), [0, 1]);
        assert!(is_suspended_by(&script::ask(&gate).await, &refused()), "also when the first one is not asked at all");
    }
}

#[tokio::test(start_paused = true)]
async fn when_all_endpoints_fail_nothing_is_asked_at_all() {
    let origins = Origins::new([Reply::Error(refused()), Reply::Error(refused())]);
    let gate = origins.gate(|_| {});
    assert_eq!(script::ask(&gate).await, Err(refused()));
    let asked = origins.asked().len();
    assert!(is_suspended_by(&script::ask(&gate).await, &refused()) && gate.standing().is_open());
    assert_eq!(origins.asked().len(), asked);
}

#[tokio::test(start_paused = true)]
async fn questions_queue_in_their_order_and_not_for_longer_than_their_deadline() {
    let origins = Origins::new([Reply::After(Duration::from_secs(10))]);
    let gate = origins.gate(|config| config.concurrent_requests = NonZeroUsize::MIN);
    let start = Instant::now();
    let ask = |name: &'static str| {
        let asking = gate.ask(manifest(name));
        async move { (asking.await.map(drop), start.elapsed().as_secs()) }
    };
    let (first, second, third) = tokio::join!(ask("x/1"), ask("x/2"), ask("x/3"));
    assert_eq!(first, (Ok(()), 10));
    assert_eq!(second, (Ok(()), 20));
    assert_eq!(third, (Err(UpstreamError::Timeout { phase: Phase::Queue }), 15));
    let order: Vec<_> = origins.asked().iter().map(|(_, question)| question.repository.to_string()).collect();
    assert_eq!(order, ["x/1", "x/2"]);
    assert_eq!(origins.unasked(), [Unasked::Queue]);
}

/// A hundred questions at five a second: most are refused, all of them by us, and nothing is held against the upstream.
#[tokio::test(start_paused = true)]
async fn our_own_limits_are_none_of_the_upstreams_failures() {
    for replies in [vec![Reply::Answer], vec![Reply::Answer, Reply::Answer]] {
        let origins = Origins::of(replies);
        let gate = origins.gate(|config| {
            config.rate = Arc::new(Rate::new(5.try_into().unwrap()));
            config.queue_timeout = Duration::from_secs(8);
        });
        // Who asks waits for little longer than the queue takes.
        let questions = (0..100).map(|_| timeout(Duration::from_secs(10), gate.ask(manifest("x/y"))));
        let results = futures::future::join_all(questions).await;
        let answered = results.iter().filter(|result| matches!(result, Ok(Ok(_)))).count();
        let busy = UpstreamError::Timeout { phase: Phase::Queue };
        let refused = results.iter().filter(|result| matches!(result, Ok(Err(error)) if *error == busy)).count();
        assert!((45..=55).contains(&answered) && answered + refused == 100, "{answered} and {refused}");
        assert!(origins.endpoints_asked().iter().all(|endpoint| *endpoint == 0) && !gate.standing().is_open());
        assert_eq!(busy.retry_after(), Some(Duration::from_secs(1)));
    }
}

#[tokio::test(start_paused = true)]
async fn one_client_does_not_spend_what_is_left_for_all() {
    let client = |number: u8| Caller::Client([10, 0, 0, number].into());
    let origins = Origins::new([Reply::Told(RateLimit { remaining: 3, ..LIMIT })]);
    let gate = origins.gate(|_| {});
    let ask = |caller, method| gate.ask(Question { caller, method, ..manifest("x/y") });
    assert!(ask(client(1), Method::Get).await.is_ok() && ask(client(2), Method::Get).await.is_ok());
    for _ in 0..3 {
        assert!(ask(client(1), Method::Get).await.is_ok());
    }
    let refused = ask(client(1), Method::Get).await.map(drop);
    assert_eq!(refused, Err(UpstreamError::ShareSpent { remaining: 3, retry_after: Duration::from_secs(600) }));
    assert_eq!(origins.unasked(), [Unasked::Share]);
    assert!(ask(client(1), Method::Head).await.is_ok(), "that is not counted");
    assert!(ask(client(2), Method::Get).await.is_ok() && ask(Caller::Larder, Method::Get).await.is_ok());
    sleep(Duration::from_secs(600)).await;
    assert!(ask(client(1), Method::Get).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_reads_holds_no_place() {
    let origins = Origins::new([Reply::Answer]);
    let gate = origins.gate(|config| config.concurrent_requests = NonZeroUsize::MIN);
    let answers = [gate.ask(manifest("x/1")).await, gate.ask(manifest("x/2")).await];
    assert!(answers.iter().all(Result::is_ok));
}

#[tokio::test(start_paused = true)]
async fn who_queues_hears_at_once_that_it_is_in_vain() {
    let origins = Origins::new([Reply::ErrorAfter(Duration::from_secs(3), refused())]);
    let gate = origins.gate(|config| config.concurrent_requests = NonZeroUsize::MIN);
    let start = Instant::now();
    let (first, second) = tokio::join!(script::ask(&gate), script::ask(&gate));
    assert_eq!(first, Err(refused()));
    assert!(is_suspended_by(&second, &refused()));
    assert_eq!(start.elapsed(), Duration::from_secs(3));
}

#[tokio::test(start_paused = true)]
async fn one_upstreams_trouble_is_nothing_to_another() {
    let (silent, well) = (Origins::new([Reply::Silence]), Origins::new([Reply::Answer]));
    let (stuck, gate) = (silent.gate(|_| {}), well.gate(|_| {}));
    let questions: Vec<_> = (0..1000).map(|_| tokio::spawn(stuck.ask(manifest("x/y")))).collect();
    tokio::task::yield_now().await;
    let start = Instant::now();
    assert_eq!(script::ask(&gate).await, Ok(()));
    assert!(start.elapsed().is_zero());
    questions.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test(start_paused = true)]
async fn a_gate_that_nobody_has_any_more_looks_no_more() {
    let origins = Origins::new([Reply::Error(refused())]);
    let gate = origins.gate(|_| {});
    let _ = script::ask(&gate).await;
    drop(gate);
    sleep(Duration::from_secs(60)).await;
    assert_eq!(origins.asked().len(), 1);
}

fn blob(content: &[u8]) -> Question {
    Question { target: Target::Blob(crate::oci::Digest::sha256(content)), ..manifest("library/app") }
}

#[tokio::test(start_paused = true)]
async fn blobs_may_be_out_of_reach_while_manifests_are_not_and_not_the_other_way_round() {
    let origins = Origins::new([Reply::Error(refused())]);
    let gate = origins.gate(|_| {});
    assert!(gate.ask(blob(b"1")).await.is_err());
    origins.set(0, Reply::Answer);
    assert_eq!(script::ask(&gate).await, Ok(()));
    assert!(is_suspended_by(&gate.ask(blob(b"2")).await.map(drop), &refused()) && gate.standing().is_open());
    assert!(gate.refusal().is_none() && gate.standing().endpoints[0].state == EndpointState::Answers);
    sleep(Duration::from_secs(1)).await;
    assert!(gate.ask(blob(b"2")).await.is_ok() && !gate.standing().is_open());

    origins.set(0, Reply::Error(refused()));
    let _ = script::ask(&gate).await;
    assert!(is_suspended_by(&gate.ask(blob(b"1")).await.map(drop), &refused()));
    assert_eq!(gate.standing().endpoints[0].blobs, EndpointState::Answers);
}

#[tokio::test(start_paused = true)]
async fn a_blob_that_is_broken_is_not_all_blobs() {
    let origins = Origins::new([status(500)]);
    let gate = origins.gate(|_| {});
    for _ in 0..20 {
        assert!(gate.ask(blob(b"broken")).await.is_err());
    }
    assert!(!gate.standing().is_open());
    assert!(gate.ask(blob(b"2")).await.is_err() && gate.ask(blob(b"3")).await.is_err());
    assert!(gate.standing().is_open(), "those are three");
}

#[tokio::test(start_paused = true)]
async fn a_listing_is_looked_for_with_get_where_it_has_no_head() {
    let origins = Origins::new([Reply::Error(refused())]);
    let gate = origins.gate(|_| {});
    let listing = Question { target: Target::Tags { query: String::new() }, ..manifest("x/y") };
    assert!(gate.ask(listing.clone()).await.is_err());
    sleep(Duration::from_secs(1)).await;
    assert_eq!(origins.asked()[1].1, listing);
}
