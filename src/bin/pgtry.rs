#![allow(warnings)]
#[path = "../../tests/postgres_contract/cases.rs"]
mod cases;
#[path = "../../tests/postgres_contract/ground.rs"]
mod ground;
#[path = "../../tests/postgres_contract/real.rs"]
mod real;
macro_rules! go { ($($case:ident($n:literal),)*) => {{
  let only = std::env::args().nth(1).unwrap_or_default();
  $( if stringify!($case).contains(&only) {
    let t = std::time::Instant::now();
    let r = std::panic::catch_unwind(|| real::run($n, cases::$case));
    println!("{} {} {:?}", if r.is_ok() {"ok    "} else {"FAILED"}, stringify!($case), t.elapsed());
  })* }}}
fn main() {
    go! {
        an_empty_machine_shows_nothing(1),
        a_new_cluster_is_born_in_its_epoch_and_shut_until_it_admits(1),
        a_directory_that_holds_something_is_not_initialised(1),
        a_copy_follows_and_gets_every_row(2),
        a_commit_waits_for_the_name_of_the_epoch(2),
        a_detached_standby_receives_nothing_more(2),
        a_promotion_opens_a_timeline_of_its_epoch(2),
        nothing_is_promoted_while_an_upstream_is_configured(2),
        a_diverged_former_primary_is_rewound_and_follows(2),
        a_crashed_primary_comes_back_in_its_place_and_shut(1),
        a_clean_shutdown_leaves_the_standby_with_everything(2),
        a_start_forgets_the_upstream(2),
        a_stop_of_a_stopped_server_is_harmless(1),
        a_copy_leaves_the_old_directory_aside(2),
    }
}
