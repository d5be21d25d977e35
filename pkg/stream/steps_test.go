package stream_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"testing"

	"github.com/znshub/znshub/pkg/stream"
)

// Steps lists every constant of type Step, each name once.
func TestSteps(t *testing.T) {
	file, err := parser.ParseFile(token.NewFileSet(), "status.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	declared := 0
	ast.Inspect(file, func(n ast.Node) bool {
		if v, ok := n.(*ast.ValueSpec); ok {
			if name, ok := v.Type.(*ast.Ident); ok && name.Name == "Step" {
				declared++
			}
		}
		return true
	})
	names := map[string]bool{}
	for _, s := range stream.Steps() {
		names[s.String()] = true
	}
	if declared == 0 || len(names) != declared || len(stream.Steps()) != declared {
		t.Errorf("%d steps are declared, %d listed, under %d names", declared, len(stream.Steps()), len(names))
	}
}
