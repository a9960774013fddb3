// Writes cyclonus' generated test cases, and what its own simulation says of each pair of pods, as JSON to the standard
// output: ../cases.json, which the tests of this crate run through the whole chain.
//
// Every case runs twice, with IPv4 and with IPv6 addresses; where both give the same they are written once. Instead of
// the few ports that a case probes, all ports of all pods are asked for, at every step. The addresses are ours: spread
// over two nodes' ranges so that the ipBlocks and exceptions that the generator builds around one pod's address part the
// pods. What a pod gets from itself is cyclonus' own opinion; in Kubernetes a pod always reaches itself.
//
// Run it (it needs Go and the module proxy; make test does not): go run . > ../cases.json
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"os"
	"sort"
	"strings"

	"github.com/mattfenwick/cyclonus/pkg/connectivity"
	"github.com/mattfenwick/cyclonus/pkg/connectivity/probe"
	"github.com/mattfenwick/cyclonus/pkg/generator"
	"github.com/mattfenwick/cyclonus/pkg/kube"
	"github.com/mattfenwick/cyclonus/pkg/matcher"
	"github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

const version = "v0.5.6"

var (
	namespaces = []string{"x", "y", "z"}
	names      = []string{"a", "b", "c"}
	ports      = []int{80, 81}
	protocols  = []v1.Protocol{v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolSCTP}
	// The last byte of each pod's address, in the order of namespaces and names; then those of pods made by a case.
	// z/c is 200: the generator's /24 has all, and its /28 has 200 and 195.
	numbers = []byte{10, 11, 140, 12, 195, 141, 13, 142, 200, 14, 143, 15, 144}
)

type file struct {
	Source     string                       `json:"source"`
	License    string                       `json:"license"`
	Namespaces map[string]map[string]string `json:"namespaces"`
	Pods       []pod                        `json:"pods"`
	Ports      []string                     `json:"ports"`
	Cases      []*testCase                  `json:"cases"`
}

type pod struct {
	Namespace string            `json:"namespace"`
	Name      string            `json:"name"`
	Labels    map[string]string `json:"labels"`
	Number    byte              `json:"number"`
}

type testCase struct {
	Description string   `json:"description"`
	Tags        []string `json:"tags"`
	Families    []string `json:"families"`
	Steps       []*step  `json:"steps"`
}

// One state of the cluster. Namespaces and pods are only there where they differ from the file's.
type step struct {
	Policies   []json.RawMessage            `json:"policies"`
	Namespaces map[string]map[string]string `json:"namespaces,omitempty"`
	Pods       []pod                        `json:"pods,omitempty"`
	// A line for each client, a word for each server, a digit for each port: 1 is allowed.
	Truth []string `json:"truth"`
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}

func address(v6 bool, number byte) string {
	if v6 {
		return netip.AddrFrom16([16]byte{0: 0xfd, 3: 0x0c, 15: number}).String()
	}
	return netip.AddrFrom4([4]byte{192, 168, 1, number}).String()
}

func numberOf(text string) byte {
	all := netip.MustParseAddr(text).AsSlice()
	return all[len(all)-1]
}

// Pods as cyclonus has them, in a fixed order, with our addresses.
func place(v6 bool, resources *probe.Resources) []pod {
	used := map[byte]bool{}
	known := func(p *probe.Pod) bool {
		ip, err := netip.ParseAddr(p.IP)
		return err == nil && strings.HasPrefix(p.IP, map[bool]string{false: "192.168.1.", true: "fd00:c"}[v6]) && ip.IsValid() && p.ServiceIP == "ours"
	}
	for _, p := range resources.Pods {
		if known(p) {
			used[numberOf(p.IP)] = true
		}
	}
	for _, p := range resources.Pods {
		for _, number := range numbers {
			if !known(p) && !used[number] {
				used[number] = true
				p.IP, p.ServiceIP = address(v6, number), "ours"
			}
		}
	}
	all := []pod{}
	for _, p := range resources.Pods {
		all = append(all, pod{p.Namespace, p.Name, p.Labels, numberOf(p.IP)})
	}
	sort.Slice(all, func(i, j int) bool { return key(all[i]) < key(all[j]) })
	return all
}

func key(p pod) string { return p.Namespace + "/" + p.Name }

func fresh(v6 bool) (*kube.MockKubernetes, *probe.Resources, []pod) {
	mock := kube.NewMockKubernetes(1)
	resources := must(probe.NewDefaultResources(mock, namespaces, names, ports, protocols, nil, 60, false, "registry.k8s.io"))
	for _, p := range resources.Pods {
		p.ServiceIP = ""
	}
	return mock, resources, place(v6, resources)
}

func act(state *connectivity.TestCaseState, a *generator.Action) error {
	switch {
	case a.CreatePolicy != nil:
		return state.CreatePolicy(a.CreatePolicy.Policy)
	case a.UpdatePolicy != nil:
		return state.UpdatePolicy(a.UpdatePolicy.Policy)
	case a.DeletePolicy != nil:
		return state.DeletePolicy(a.DeletePolicy.Namespace, a.DeletePolicy.Name)
	case a.CreateNamespace != nil:
		return state.CreateNamespace(a.CreateNamespace.Namespace, a.CreateNamespace.Labels)
	case a.SetNamespaceLabels != nil:
		return state.SetNamespaceLabels(a.SetNamespaceLabels.Namespace, a.SetNamespaceLabels.Labels)
	case a.DeleteNamespace != nil:
		return state.DeleteNamespace(a.DeleteNamespace.Namespace)
	case a.CreatePod != nil:
		return state.CreatePod(a.CreatePod.Namespace, a.CreatePod.Pod, a.CreatePod.Labels)
	case a.SetPodLabels != nil:
		return state.SetPodLabels(a.SetPodLabels.Namespace, a.SetPodLabels.Pod, a.SetPodLabels.Labels)
	case a.DeletePod != nil:
		return state.DeletePod(a.DeletePod.Namespace, a.DeletePod.Pod)
	}
	return fmt.Errorf("an action that this program does not know: %+v", a)
}

func policy(p *networkingv1.NetworkPolicy) json.RawMessage {
	var object map[string]any
	if err := json.Unmarshal(must(json.Marshal(p)), &object); err != nil {
		panic(err)
	}
	delete(object, "status")
	delete(object["metadata"].(map[string]any), "creationTimestamp")
	object["apiVersion"], object["kind"] = "networking.k8s.io/v1", "NetworkPolicy"
	return must(json.Marshal(object))
}

// What cyclonus' simulation says of all pairs.
func truth(state *connectivity.TestCaseState, pods []pod) []string {
	policies := matcher.BuildNetworkPolicies(false, state.Policies)
	runner := probe.NewSimulatedRunner(policies, &probe.JobBuilder{TimeoutSeconds: 1})
	table := runner.RunProbeForConfig(generator.ProbeAllAvailable, state.Resources)
	lines := []string{}
	for _, from := range pods {
		words := []string{}
		for _, to := range pods {
			results := table.Get(key(from), key(to)).JobResults
			word := ""
			for _, port := range portKeys() {
				result, found := results[port]
				if !found {
					panic(fmt.Sprintf("no result for %s to %s %s", key(from), key(to), port))
				}
				word += map[probe.Connectivity]string{probe.ConnectivityAllowed: "1", probe.ConnectivityBlocked: "0"}[result.Combined]
			}
			if len(word) != len(portKeys()) {
				panic("neither allowed nor blocked")
			}
			words = append(words, word)
		}
		lines = append(lines, strings.Join(words, " "))
	}
	return lines
}

func portKeys() []string {
	all := []string{}
	for _, protocol := range protocols {
		for _, port := range ports {
			all = append(all, fmt.Sprintf("%s/%d", protocol, port))
		}
	}
	return all
}

func run(v6 bool, number int) *testCase {
	mock, resources, base := fresh(v6)
	zc := must(resources.GetPod("z", "c"))
	c := generator.NewTestCaseGenerator(true, zc.IP, namespaces, nil, nil).GenerateAllTestCases()[number]
	tags := c.Tags.Keys()
	sort.Strings(tags)
	out := &testCase{Description: c.Description, Tags: tags, Families: []string{map[bool]string{false: "IPv4", true: "IPv6"}[v6]}}
	state := &connectivity.TestCaseState{Kubernetes: mock, Resources: resources}
	baseNamespaces := must(json.Marshal(resources.Namespaces))
	for _, s := range c.Steps {
		for _, a := range s.Actions {
			if err := act(state, a); err != nil {
				panic(fmt.Sprintf("case %d %q: %v", number, c.Description, err))
			}
		}
		now := place(v6, state.Resources)
		one := &step{Policies: []json.RawMessage{}, Truth: truth(state, now)}
		for _, p := range state.Policies {
			one.Policies = append(one.Policies, policy(p))
		}
		if !bytes.Equal(must(json.Marshal(now)), must(json.Marshal(base))) {
			one.Pods = now
		}
		if !bytes.Equal(must(json.Marshal(state.Resources.Namespaces)), baseNamespaces) {
			one.Namespaces = state.Resources.Namespaces
		}
		out.Steps = append(out.Steps, one)
	}
	return out
}

func main() {
	logrus.SetOutput(io.Discard)
	_, resources, pods := fresh(false)
	out := file{
		Source:     "github.com/mattfenwick/cyclonus " + version + ", written by generate/",
		License:    "MIT, Copyright (c) 2021 Matt Fenwick",
		Namespaces: resources.Namespaces,
		Pods:       pods,
		Ports:      portKeys(),
	}
	count := len(generator.NewTestCaseGenerator(true, "192.168.1.200", namespaces, nil, nil).GenerateAllTestCases())
	for number := 0; number < count; number++ {
		v4, v6 := run(false, number), run(true, number)
		if bytes.Equal(must(json.Marshal(v4.Steps)), must(json.Marshal(v6.Steps))) {
			v4.Families = append(v4.Families, v6.Families...)
			out.Cases = append(out.Cases, v4)
		} else {
			out.Cases = append(out.Cases, v4, v6)
		}
	}
	text := must(json.Marshal(out))
	// A line for each case, so that a difference can be read.
	text = bytes.ReplaceAll(text, []byte(`{"description"`), []byte("\n{\"description\""))
	fmt.Fprintf(os.Stdout, "%s\n", text)
}
