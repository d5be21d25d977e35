package zalo

import (
	_ "embed" // errors.json
	"encoding/json"
	"fmt"

	znsv1 "github.com/znshub/znshub/proto/zns/v1"
)

// Class is what kind of refusal an error code is. Its String is a metric label.
type Class int

const (
	ClassNone               Class = iota // success, or a code that errors.json does not know
	ClassRecipientPermanent              // this person cannot be reached on this channel
	ClassRecipientTemporary              // this person cannot be reached now
	ClassTemplate                        // the template or its data is at fault
	ClassAccount                         // the OA, its permissions or its billing is at fault
	ClassQuota                           // a quota is used up
	ClassHours                           // not at this hour
	ClassToken                           // the access token is at fault
	ClassConfig                          // the settings of the app or of this program are at fault
	ClassTransient                       // try again later
)

var classNames = [...]string{
	"none", "recipient_permanent", "recipient_temporary", "template", "account", "quota", "hours", "token", "config", "transient",
}

func (c Class) String() string { return enumName(classNames[:], int(c)) }

// Proto returns the class as it stands in zns.failed.
func (c Class) Proto() znsv1.ErrorClass { return znsv1.ErrorClass(c) }

// Action is what is to be done about a code.
type Action int

const (
	ActionAccept  Action = iota // code 0
	ActionRetry                 // Zalo did not send it; call again with backoff
	ActionHold                  // Zalo did not send it; wait for what Hold names, then call again
	ActionFail                  // Zalo did not send it and would not next time
	ActionUnknown               // Zalo does not say whether it sent it
)

var actionNames = [...]string{"accept", "retry", "hold", "fail", "unknown"}

func (a Action) String() string { return enumName(actionNames[:], int(a)) }

// Hold is what a held message waits for. The values are the ledger's names of reasons.
type Hold string

const (
	HoldNone           Hold = ""
	HoldQuota          Hold = "quota"           // until Zalo's reset, see CodeInfo.Period
	HoldHours          Hold = "hours"           // until 06:00 in Vietnam
	HoldToken          Hold = "token"           // until there is another access token
	HoldTemplateReview Hold = "template_review" // until Zalo has approved the template
	HoldAccount        Hold = "account"         // until the OA's permissions or billing are mended
	HoldOperator       Hold = "operator"        // until a person says so
	HoldRate           Hold = "rate"            // until Result.RetryAfter has passed
)

var holds = []Hold{HoldNone, HoldQuota, HoldHours, HoldToken, HoldTemplateReview, HoldAccount, HoldOperator, HoldRate}

// Host is one of Zalo's API hosts. The same code means different things on them: -100 is "unknown error" on one and an
// expired attachment on the other.
type Host int

const (
	HostBusiness Host = iota // business.openapi.zalo.me: messages by phone, templates, quota
	HostOpenAPI              // openapi.zalo.me: messages by user id, the OA itself
)

var hostNames = [...]string{"business", "openapi"}

func (h Host) String() string { return enumName(hostNames[:], int(h)) }

func enumName(names []string, i int) string {
	if i < 0 || i >= len(names) {
		return fmt.Sprintf("invalid(%d)", i)
	}
	return names[i]
}

// CodeInfo is what is known about one error code of one host.
type CodeInfo struct {
	Code   int
	Class  Class
	Action Action
	Hold   Hold   // with ActionHold
	Scope  string // whom a hold or quota concerns: oa, app, category, template, recipient, promotion, development; empty: this message
	Period string // of a quota: day, month
	Listed bool   // whether the table of 2026 lists it; older codes may still come
	Text   string // what it means; Zalo's own words where they are known
	Known  bool   // false for a code that the table does not have
}

//go:embed errors.json
var errorsJSON []byte

// tableDate is when the codes were compiled, as it stands in errors.json.
var codeTable, tableDate = mustLoadCodes(errorsJSON)

// TableDate returns when the table of codes was compiled: "November 2026".
func TableDate() string { return tableDate }

// LookupCode returns what is known about a code. A code that nobody listed is held for an operator: calling again
// could cost money or annoy a person, failing it could lose a message.
func LookupCode(host Host, code int) CodeInfo {
	if info, ok := codeTable[host][code]; ok {
		return info
	}
	return CodeInfo{
		Code: code, Class: ClassNone, Action: ActionHold, Hold: HoldOperator,
		Text: "A code that is in no table of " + tableDate + "; ask Zalo or look it up, then release or cancel",
	}
}

// Codes returns the whole table of a host, in no particular order.
func Codes(host Host) []CodeInfo {
	list := make([]CodeInfo, 0, len(codeTable[host]))
	for _, info := range codeTable[host] {
		list = append(list, info)
	}
	return list
}

type codesFile struct {
	Date  string `json:"date"`
	Hosts map[string][]struct {
		Code   int    `json:"code"`
		Class  string `json:"class"`
		Action string `json:"action"`
		Hold   Hold   `json:"hold"`
		Scope  string `json:"scope"`
		Period string `json:"period"`
		Listed *bool  `json:"listed"`
		Text   string `json:"text"`
	} `json:"hosts"`
}

// mustLoadCodes panics on a fault of the file, which is part of the program.
func mustLoadCodes(data []byte) (tables [len(hostNames)]map[int]CodeInfo, date string) {
	var file codesFile
	if err := json.Unmarshal(data, &file); err != nil {
		panic(fmt.Sprintf("errors.json: %v", err))
	}
	for host, name := range hostNames {
		table := make(map[int]CodeInfo, len(file.Hosts[name]))
		for _, e := range file.Hosts[name] {
			if _, ok := table[e.Code]; ok {
				panic(fmt.Sprintf("errors.json: %s lists %d twice", name, e.Code))
			}
			table[e.Code] = CodeInfo{
				Code: e.Code, Class: Class(mustIndex(classNames[:], e.Class)), Action: Action(mustIndex(actionNames[:], e.Action)),
				Hold: holds[mustIndex(holds, e.Hold)], Scope: e.Scope, Period: e.Period,
				Listed: e.Listed == nil || *e.Listed, Text: e.Text, Known: true,
			}
		}
		tables[host] = table
	}
	return tables, file.Date
}

func mustIndex[T ~string](names []T, name T) int {
	for i, n := range names {
		if n == name {
			return i
		}
	}
	panic(fmt.Sprintf("errors.json: %q is none of %q", name, names))
}
