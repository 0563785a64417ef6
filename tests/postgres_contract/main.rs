//! One contract, two servers: every case runs against the simulated Postgres and against a real
//! one, so that the model cannot drift from the truth.
//!
//! The real part needs PostgreSQL's server programs and says so where there are none: then it
//! fails, unless `WITHOUT_POSTGRES=1` says that this is known.
#![allow(clippy::unwrap_used, reason = "a test says by panicking that it cannot go on")]
#![allow(clippy::disallowed_methods, reason = "a real server lives in real time")]

mod cases;
mod ground;
mod hearsay;
#[path = "../machine/mod.rs"]
mod machine;
mod real;
mod sequences;
mod simulated;
mod starts;

macro_rules! on_both {
    ($($from:ident::$case:ident($machines:literal),)*) => {
        mod on_the_model {
            $(#[test]
            fn $case() {
                super::simulated::run($machines, super::$from::$case);
            })*
        }

        mod on_a_real_server {
            $(#[test]
            fn $case() {
                super::real::run($machines, super::$from::$case);
            })*
        }
    };
}

on_both! {
    cases::an_empty_machine_shows_nothing(1),
    cases::a_new_cluster_is_born_in_its_epoch_and_shut_until_it_admits(1),
    cases::a_directory_that_holds_something_is_not_initialised(1),
    cases::a_copy_follows_and_gets_every_row(2),
    cases::a_commit_waits_for_the_name_of_the_epoch(2),
    cases::a_configuration_without_standbys_is_read_back_with_its_epoch(1),
    cases::a_configuration_is_in_force_when_every_session_obeys_it(2),
    cases::a_promoted_server_obeys_from_its_first_write(2),
    cases::a_promoted_server_that_waits_for_nobody_acknowledges_at_once(2),
    cases::a_promoted_server_does_not_claim_to_obey_before_it_does(2),
    cases::a_set_that_shrinks_counts_nobody_who_left(3),
    cases::a_manager_that_starts_anew_changes_nothing_by_itself(2),
    cases::a_detached_standby_receives_nothing_more(2),
    cases::a_promotion_opens_a_timeline_of_its_epoch(2),
    starts::a_promotion_that_is_cut_short_leaves_a_standby(2),
    cases::nothing_is_promoted_while_an_upstream_is_configured(2),
    cases::a_diverged_former_primary_is_rewound_and_follows(2),
    cases::a_rewind_under_way_is_never_taken_for_a_server(2),
    cases::a_crashed_primary_comes_back_in_its_place_and_shut(1),
    cases::a_primary_that_loses_a_session_lets_nobody_in_by_itself(1),
    cases::a_configuration_that_somebody_else_took_away_is_brought_back(1),
    cases::a_clean_shutdown_leaves_the_standby_with_everything(2),
    cases::a_start_forgets_the_upstream(2),
    cases::a_detach_does_not_wait_for_replay(2),
    cases::a_restarted_standby_knows_its_end_only_when_it_has_replayed_it(2),
    cases::a_start_with_an_upstream_streams(2),
    cases::a_rewind_between_equal_numbers_finds_nothing_to_do(3),
    cases::a_rewound_server_needs_what_its_source_wrote_meanwhile(2),
    cases::a_crashed_standby_that_diverged_is_rewound(3),
    cases::an_upstream_far_away_is_followed_and_no_verb_waits_for_it(2),
    cases::an_idle_primary_is_heard(2),
    cases::a_stop_of_a_stopped_server_is_harmless(1),
    cases::a_copy_leaves_the_old_directory_aside(2),
    cases::what_members_lack_is_kept_by_whoever_becomes_primary(3),
    cases::parameters_are_in_force_or_wait_for_a_restart_and_nonsense_is_refused(1),
    starts::a_promotion_is_seen_by_the_next_manager(2),
    starts::a_look_at_a_server_that_hangs_ends_with_it(1),
    starts::a_standby_starts_with_less_than_its_primary_had(2),
    hearsay::who_was_told_of_a_line_that_lost_follows_the_one_that_won(4),
    hearsay::no_timeline_begins_before_the_one_that_it_came_after(4),
    hearsay::a_start_forgets_what_it_was_told(3),
    sequences::verbs_in_an_order_that_is_drawn(2),
    sequences::verbs_in_another_order(2),
    sequences::verbs_in_a_third_order(2),
}
