package main

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

const waitSeconds = 10

// call is what the ledger knows of one call.
type call struct {
	Method   string              `json:"method"`
	Peer     string              `json:"peer"`
	Seconds  *float64            `json:"seconds"` // until its deadline, when it came
	Metadata map[string][]string `json:"metadata"`
	Code     string              `json:"code,omitempty"`     // once it is over
	GivenUp  string              `json:"given_up,omitempty"` // "cancelled" or "expired", when that came first
}

// ledger keeps the calls, and answers the control paths.
type ledger struct {
	mutex   sync.Mutex
	changed chan struct{} // closed and replaced at every change
	calls   []*call
}

func newLedger() *ledger {
	return &ledger{changed: make(chan struct{}), calls: []*call{}}
}

// change runs fn with the ledger locked and wakes those who wait.
func (book *ledger) change(fn func()) {
	book.mutex.Lock()
	defer book.mutex.Unlock()
	fn()
	close(book.changed)
	book.changed = make(chan struct{})
}

// begin notes a call; the function it returns notes how it ended. A client that gives up is noted when it does, not
// when the handler notices: the official service sleeps through it.
func (book *ledger) begin(ctx context.Context, method string) func(error) {
	entry := &call{Method: method}
	if from, ok := peer.FromContext(ctx); ok {
		entry.Peer = from.Addr.String()
	}
	if deadline, ok := ctx.Deadline(); ok {
		seconds := time.Until(deadline).Seconds()
		entry.Seconds = &seconds
	}
	if md, ok := metadata.FromIncomingContext(ctx); ok {
		entry.Metadata = md
	}
	book.change(func() { book.calls = append(book.calls, entry) })
	over := make(chan struct{})
	givenUp := func() {
		if entry.Code != "" || ctx.Err() == nil {
			return
		}
		entry.GivenUp = "cancelled"
		if ctx.Err() == context.DeadlineExceeded {
			entry.GivenUp = "expired"
		}
	}
	go func() {
		select {
		case <-over:
		case <-ctx.Done():
			book.change(givenUp)
		}
	}()
	return func(err error) {
		book.change(func() {
			givenUp() // the handler may be the first to know
			entry.Code = status.Code(err).String()
		})
		close(over)
	}
}

// stats counts; the ledger is locked.
func (book *ledger) stats() map[string]any {
	peers := map[string]bool{}
	counts := map[string]int{}
	running := 0
	for _, entry := range book.calls {
		peers[entry.Peer] = true
		counts[entry.GivenUp]++
		if entry.Code == "" && entry.GivenUp == "" {
			running++
		}
	}
	return map[string]any{"calls": len(book.calls), "connections": len(peers), "running": running,
		"cancelled": counts["cancelled"], "given_up": counts["cancelled"] + counts["expired"]}
}

// holds says whether every count asked for has been reached (running: exactly).
func holds(stats map[string]any, query url.Values) bool {
	for name := range query {
		wanted, err := strconv.Atoi(query.Get(name))
		count, known := stats[name].(int)
		if err != nil || !known || count < wanted || (name == "running" && count != wanted) {
			return false
		}
	}
	return true
}

func (book *ledger) wait(query url.Values) map[string]any {
	limit := time.After(waitSeconds * time.Second)
	for {
		book.mutex.Lock()
		stats, changed := book.stats(), book.changed
		book.mutex.Unlock()
		if holds(stats, query) {
			return stats
		}
		select {
		case <-changed:
		case <-limit:
			stats["timeout"] = true
			return stats
		}
	}
}

func (book *ledger) ServeHTTP(answer http.ResponseWriter, request *http.Request) {
	var reply any
	switch request.URL.Path {
	case "/wait":
		reply = book.wait(request.URL.Query())
	case "/reset":
		book.change(func() { book.calls = []*call{} })
		reply = true
	default:
		book.mutex.Lock()
		defer book.mutex.Unlock()
		reply = book.stats()
		if request.URL.Path == "/log" {
			reply = book.calls
		}
	}
	answer.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(answer).Encode(reply) // a reader that left
}
