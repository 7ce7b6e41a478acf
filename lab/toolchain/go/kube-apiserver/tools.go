//go:build tools

// Package tools names the program that the lab builds, so that go.sum pins everything it is made of.
package tools

import _ "k8s.io/kubernetes/cmd/kube-apiserver"
