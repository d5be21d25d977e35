package webhook

import "strings"

// knownEvents are the event names of Zalo's documentation, November 2026. They bound the labels of metrics: a name
// from the wire is never a label.
var knownEvents = toSet(`
	user_received_message user_seen_message user_feedback user_click_response_button
	change_template_status change_template_quality change_oa_daily_quota change_oa_template_tags change_template_quota
	event_journey_acknowledged event_journey_time_out
	user_send_text user_send_image user_send_file user_send_audio user_send_video user_send_sticker user_send_link
	user_send_location user_send_business_card
	oa_send_text oa_send_image oa_send_file oa_send_sticker oa_send_gif oa_send_list oa_send_template oa_send_consent
	follow unfollow user_click_chatnow user_submit_info user_reacted_message oa_reacted_message update_user_info
	add_user_to_tag remove_user_from_tag remove_tag
	widget_interaction_accepted widget_failed_to_sync_user_external_id user_withdraw
	user_reply_consent user_call_oa extension_purchased`)

func toSet(names string) map[string]bool {
	set := map[string]bool{}
	for name := range strings.FieldsSeq(names) {
		set[name] = true
	}
	return set
}

// KnownEvent returns the name of an event as a metric label: itself when Zalo documents it, else "other"; "none" for a
// body without a name.
func KnownEvent(name string) string {
	switch {
	case knownEvents[name]:
		return name
	case name == "":
		return "none"
	}
	return "other"
}
