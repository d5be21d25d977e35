package zalo

import (
	"testing"

	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// Every code that Zalo or its users listed by November 2026. A code that vanishes from errors.json would be held for
// an operator from then on.
var (
	businessCodes = []int{
		0, -32, -100, -101, -102, -103, -104, -105, -106, -107, -108, -109, -1091, -110, -111, -112, -1121, -1122, -1123, -1124,
		-113, -1131, -1132, -114, -115, -116, -117, -118, -119, -120, -1201, -1202, -121, -122, -123, -124, -1241, -125, -126, -127,
		-128, -129, -130, -131, -132, -133, -134, -135, -1351, -136, -137, -138, -1381, -139, -140, -141, -142, -143, -144, -1441,
		-145, -146, -147, -1471, -1472, -148, -149, -1491, -150, -151, -152, -153, -158, -159, -160, -161, -162, -248, -249,
	}
	openAPICodes = []int{
		0, -32, -100, -200, -201, -204, -205, -209, -210, -211, -212, -213, -214, -216, -217, -218, -219, -220, -221, -223, -224, -227,
		-230, -232, -233, -234, -235, -237, -238, -241, -240, -242, -244, -248, -249, -320, -321, -403, -1340, -1341,
	}
)

func TestEveryListedCodeIsKnown(t *testing.T) {
	for host, codes := range map[Host][]int{HostBusiness: businessCodes, HostOpenAPI: openAPICodes} {
		for _, code := range codes {
			if info := LookupCode(host, code); !info.Known || info.Text == "" {
				t.Errorf("%s %d is not in errors.json", host, code)
			}
		}
	}
	if TableDate() != "November 2026" {
		t.Errorf("the table is of %q", TableDate())
	}
}

// A code's class and action agree: the sender relies on it that what is held says what for, and that nothing but the
// codes below is called again by itself or left open.
func TestCodesAreConsistent(t *testing.T) {
	retried := map[Host]map[int]bool{HostBusiness: {-32: true, -129: true}, HostOpenAPI: {-32: true, -214: true}}
	unknown := map[Host]map[int]bool{HostBusiness: {-100: true, -200: true}, HostOpenAPI: {-200: true}}
	for _, host := range []Host{HostBusiness, HostOpenAPI} {
		for _, c := range Codes(host) {
			switch c.Action {
			case ActionAccept:
				if c.Code != 0 {
					t.Errorf("%s %d counts as accepted", host, c.Code)
				}
			case ActionRetry:
				if !retried[host][c.Code] {
					t.Errorf("%s %d is retried by itself", host, c.Code)
				}
			case ActionUnknown:
				if !unknown[host][c.Code] {
					t.Errorf("%s %d counts as unknown", host, c.Code)
				}
			case ActionHold:
				if c.Hold == HoldNone {
					t.Errorf("%s %d is held, but for what?", host, c.Code)
				}
			}
			if c.Action != ActionHold && c.Hold != HoldNone {
				t.Errorf("%s %d: hold %q without being held", host, c.Code, c.Hold)
			}
			if c.Code != 0 && c.Class == ClassNone {
				t.Errorf("%s %d has no class", host, c.Code)
			}
			want := map[Class]Hold{ClassToken: HoldToken, ClassHours: HoldHours, ClassAccount: HoldAccount}[c.Class]
			if want != HoldNone && c.Hold != want {
				t.Errorf("%s %d: class %s with hold %q", host, c.Code, c.Class, c.Hold)
			}
			if c.Class == ClassQuota && c.Action == ActionHold && (c.Hold != HoldQuota || c.Period == "" || c.Scope == "") {
				t.Errorf("%s %d: a quota needs hold, scope and period", host, c.Code)
			}
			if (c.Class == ClassRecipientPermanent || c.Class == ClassRecipientTemporary) && c.Action != ActionFail {
				t.Errorf("%s %d: a person who cannot be reached blocks a queue", host, c.Code)
			}
		}
	}
}

func TestLookupCode(t *testing.T) {
	for _, tt := range []struct {
		host   Host
		code   int
		class  Class
		action Action
		hold   Hold
	}{
		{HostBusiness, -124, ClassToken, ActionHold, HoldToken},
		{HostBusiness, -1241, ClassConfig, ActionHold, HoldOperator}, // never refreshes the token
		{HostBusiness, -118, ClassRecipientPermanent, ActionFail, HoldNone},
		{HostBusiness, -131, ClassTemplate, ActionHold, HoldTemplateReview},
		{HostBusiness, -133, ClassHours, ActionHold, HoldHours},
		{HostBusiness, -144, ClassQuota, ActionHold, HoldQuota},
		{HostBusiness, -115, ClassAccount, ActionHold, HoldAccount},
		{HostBusiness, -100, ClassTransient, ActionUnknown, HoldNone},
		{HostOpenAPI, -100, ClassConfig, ActionFail, HoldNone},
		{HostOpenAPI, -216, ClassToken, ActionHold, HoldToken},
		{HostBusiness, -9999, ClassNone, ActionHold, HoldOperator},
		{HostBusiness, 7, ClassNone, ActionHold, HoldOperator},
	} {
		got := LookupCode(tt.host, tt.code)
		if got.Class != tt.class || got.Action != tt.action || got.Hold != tt.hold {
			t.Errorf("%s %d: %s %s %q, want %s %s %q", tt.host, tt.code, got.Class, got.Action, got.Hold, tt.class, tt.action, tt.hold)
		}
	}
}

func TestClassesMatchTheContract(t *testing.T) {
	for c, name := range classNames {
		want := "ERROR_CLASS_UNSPECIFIED"
		if Class(c) != ClassNone {
			want = "ERROR_CLASS_" + upper(name)
		}
		if got := Class(c).Proto().String(); got != want {
			t.Errorf("class %s maps to %s, want %s", name, got, want)
		}
	}
	for c, name := range causeNames {
		want := "UNKNOWN_CAUSE_UNSPECIFIED"
		if Cause(c) != CauseNone {
			want = "UNKNOWN_CAUSE_" + upper(name)
		}
		if got := Cause(c).Proto().String(); got != want {
			t.Errorf("cause %s maps to %s, want %s", name, got, want)
		}
	}
	for o, name := range outcomeNames {
		want := "ATTEMPT_OUTCOME_UNSPECIFIED"
		if Outcome(o) != 0 {
			want = "ATTEMPT_OUTCOME_" + upper(name)
		}
		if got := Outcome(o).Proto().String(); got != want {
			t.Errorf("outcome %s maps to %s, want %s", name, got, want)
		}
	}
	if n := len(znsv1.ErrorClass_name); n != len(classNames) {
		t.Errorf("the contract has %d classes, this package %d", n, len(classNames))
	}
}

func upper(s string) string {
	b := []byte(s)
	for i, c := range b {
		if c >= 'a' && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
	}
	return string(b)
}
