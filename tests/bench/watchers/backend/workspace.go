package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"log"
	"maps"
	"math/rand"
	"slices"
	"sort"
	"strconv"
	"strings"
	"sync"
	"time"
)

const pageSize = 250

// outcome is what becomes of a connection.
type outcome int

const (
	answered outcome = iota
	hangUp
	silence
)

// fault is what a POST may meet: whether the start is made all the same, and what is answered.
type fault struct {
	name    string
	commits bool
	status  string
	outcome outcome
}

var faults = []fault{
	{"500 after commit", true, "500 Internal Server Error", answered},
	{"reset before commit", false, "", hangUp},
	{"reset after commit", true, "", hangUp},
	{"silence after commit", true, "", silence},
	{"429", false, "429 Too Many Requests", answered},
}

// chance deals out faults.
type chance struct {
	mutex  sync.Mutex // protects what follows
	share  float64
	random *rand.Rand
	dealt  int
}

func (c *chance) next() *fault {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.random.Float64() >= c.share {
		return nil
	}
	c.dealt++
	return &faults[(c.dealt-1)%len(faults)]
}

// start is one that was taken; its place among the others is its number.
type start struct {
	flow    string
	params  string
	created time.Time
}

// shown is a start in a list: which, and when it had changed last.
type shown struct {
	number   int
	modified time.Time
}

// workspace is one account.
type workspace struct {
	uuid   string
	delay  time.Duration
	chance *chance

	mutex  sync.Mutex // protects what follows
	starts []start
	keys   map[string]bool
	listed []shown // by the list that is being read
	counted
}

// counted is what a workspace has done.
type counted struct {
	Posts    int            `json:"posts"`
	Answered int            `json:"answered"` // with 201
	Commits  int            `json:"commits"`
	Keys     int            `json:"keys"`  // distinct ones
	Again    []string       `json:"again"` // those that were carried out before
	Faults   map[string]int `json:"faults"`
}

func newWorkspace(number int, chance *chance) *workspace {
	w := &workspace{uuid: fmt.Sprintf("fa6f2c37-c69e-4d8d-a596-%012x", number), chance: chance, keys: map[string]bool{}}
	w.Faults, w.Again = map[string]int{}, []string{}
	return w
}

// post takes a start, and tells the answer.
func (w *workspace) post(body []byte) (string, []byte, outcome) {
	time.Sleep(w.delay)
	w.mutex.Lock()
	defer w.mutex.Unlock()
	w.Posts++
	met := w.chance.next()
	if met == nil {
		w.Answered++
		return "201 Created", w.commit(body), answered
	}
	w.Faults[met.name]++
	if met.commits {
		w.commit(body)
	}
	return met.status, []byte(`{"detail":"Request was throttled."}`), met.outcome
}

func (w *workspace) commit(body []byte) []byte {
	var asked struct {
		Flow   string
		Params json.RawMessage
	}
	var params struct {
		Key string `json:"startflow_id"`
	}
	if err := json.Unmarshal(body, &asked); err != nil {
		log.Fatal(err)
	}
	if err := json.Unmarshal(asked.Params, &params); err != nil {
		log.Fatal(err)
	}
	if w.keys[params.Key] {
		w.Again = append(w.Again, params.Key)
	}
	w.keys[params.Key] = true
	made := start{flow: asked.Flow, params: string(asked.Params), created: time.Now()}
	w.starts = append(w.starts, made)
	w.Commits, w.Keys = len(w.starts), len(w.keys)
	return w.row(nil, shown{len(w.starts) - 1, made.created})
}

// list shows a page of the starts that have changed since a moment, or the one that is asked for.
func (w *workspace) list(uuid, after, cursor string) []byte {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	first, page, next := 0, []shown{}, "null"
	switch {
	case uuid != "":
		if number, err := strconv.ParseInt(strings.SplitN(uuid, "-", 2)[0], 16, 64); err == nil && int(number) < len(w.starts) {
			page = append(page, shown{int(number), w.changed(int(number), time.Now())})
		}
	case cursor != "":
		first, _ = strconv.Atoi(cursor)
		page = w.listed[min(first, len(w.listed)):]
	default:
		since, err := time.Parse(time.RFC3339, after)
		if err != nil {
			log.Fatal(err)
		}
		w.listed = w.since(since)
		page = w.listed
	}
	if len(page) > pageSize {
		page = page[:pageSize]
		next = fmt.Sprintf(`"http://internal.example/api/v2/flow_starts.json?cursor=%d"`, first+pageSize)
	}
	text := fmt.Appendf(nil, `{"next":%s,"previous":null,"results":[`, next)
	for n, each := range page {
		if n > 0 {
			text = append(text, ',')
		}
		text = w.row(text, each)
	}
	return append(text, "]}"...)
}

// since finds the starts that have changed since a moment; they are made, and completed, in the order of their numbers.
func (w *workspace) since(after time.Time) []shown {
	now := time.Now()
	first := sort.Search(len(w.starts), func(n int) bool { return !w.starts[n].created.Before(after.Add(-takes)) })
	found := []shown{}
	for n := first; n < len(w.starts); n++ {
		if modified := w.changed(n, now); !modified.Before(after) {
			found = append(found, shown{n, modified})
		}
	}
	slices.SortFunc(found, func(a, b shown) int {
		return cmp.Or(a.modified.Compare(b.modified), cmp.Compare(a.number, b.number))
	})
	return found
}

func (w *workspace) changed(number int, now time.Time) time.Time {
	created := w.starts[number].created
	if completed := created.Add(takes); completed.Before(now) {
		return completed
	}
	return created
}

// row writes a start as RapidPro shows it.
func (w *workspace) row(text []byte, each shown) []byte {
	const row = `{"id":%d,"uuid":"%08x-47fe-41e4-8fe9-b8f6b119e9ab","flow":{"uuid":%q,"name":"Registration"},` +
		`"status":%q,"progress":{"total":%d,"started":%d},"groups":[],"contacts":[],"params":%s,"created_on":%q,` +
		`"modified_on":%q,"extra":{},"restart_participants":true,"exclude_active":false}`
	const moment = "2006-01-02T15:04:05.000000Z"
	made, status, total, started := w.starts[each.number], "pending", -1, 0
	if each.modified.After(made.created) {
		status, total, started = "completed", 1, 1
	}
	created, modified := made.created.UTC().Format(moment), each.modified.UTC().Format(moment)
	return fmt.Appendf(
		text, row, each.number, each.number, made.flow, status, total, started, made.params, created, modified,
	)
}

// counts tells what each workspace has done.
func counts(workspaces []*workspace) []byte {
	told := make([]json.RawMessage, len(workspaces))
	for n, each := range workspaces {
		told[n] = each.tell()
	}
	return encode(told)
}

func (w *workspace) tell() json.RawMessage {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return encode(w.counted)
}

// keys lists the correlation keys under which anything was carried out.
func keys(workspaces []*workspace) []byte {
	found := []string{}
	for _, each := range workspaces {
		each.mutex.Lock()
		found = slices.AppendSeq(found, maps.Keys(each.keys))
		each.mutex.Unlock()
	}
	return encode(found)
}

func encode(value any) []byte {
	text, err := json.Marshal(value)
	if err != nil {
		log.Fatal(err)
	}
	return text
}
