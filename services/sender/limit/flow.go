package limit

import (
	"time"

	ledgerv1 "github.com/znshub/znshub/proto/ledger/v1"
	notificationv1 "github.com/znshub/znshub/proto/notification/v1"
)

// Flow is what requests have in common that are limited and commanded alike. It is comparable: schedulers keep what is
// ready by flow, and skip a closed flow as a whole.
type Flow struct {
	OA       string
	Template string
	Campaign string
	Category notificationv1.Category // the lane; never UNSPECIFIED
}

// Hold is why nothing of a flow, or one notification, may start now.
type Hold struct {
	Reason ledgerv1.HoldReason
	Until  time.Time // zero: an event ends it
}
